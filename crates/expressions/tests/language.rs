//! What expressions give: the language itself and the libraries.

use kobune_expressions::{Environment, Meter, PER_EXPRESSION, Program, Type, Value};
use serde_json::{Value as Json, json};

fn evaluate(source: &str) -> Result<Json, String> {
    let object = json!({
        "name": "web", "replicas": 3, "ratio": 0.5, "empty": {}, "nothing": null,
        "labels": {"app": "web", "a.b/c": "x"}, "ports": [80, 443], "tags": ["a", "b", "a"],
    });
    let environment = Environment::new().variable("object", Type::Dyn);
    let program = Program::compile(source, &environment).map_err(|error| error.to_string())?;
    let mut meter = Meter::new(PER_EXPRESSION);
    let value = program.evaluate(&[Value::untyped(&object)], &mut meter).map_err(|error| error.to_string())?;
    value.to_json().map_err(|error| error.to_string())
}

#[track_caller]
fn check(source: &str, expected: Json) {
    assert_eq!(evaluate(source), Ok(expected), "{source}");
}

#[track_caller]
fn fails(source: &str, expected: &str) {
    match evaluate(source) {
        Err(error) => assert!(error.contains(expected), "{source}: {error}"),
        Ok(value) => panic!("{source} gives {:.200}", value.to_string()),
    }
}

#[test]
fn literals_and_operators() {
    check("1 + 2 * 3 - 4 / 2 % 2", json!(7));
    check("-(-2) - -3", json!(5));
    check("0xff == 255 && 1u < 2u && 1.5e2 == 150.0", json!(true));
    check(r#"'a' + "b" + r'\n' + '''c'''"#, json!("ab\\nc"));
    check("b'abc' + b'd' == bytes('abcd')", json!(true));
    check("1 < 2.5 && 3u > 1 && 2.0 <= 2", json!(true));
    check("dyn(1) == dyn(1.0) && dyn(1u) == dyn(1) && dyn('1') != dyn(1)", json!(true));
    check("object.replicas > 2 ? 'many' : 'few'", json!("many"));
    check("!true || !!true", json!(true));
    check("[1, 2] + [3] == [1, 2, 3]", json!(true));
    check("{'a': 1}.a + {'b': 2}['b']", json!(3));
    check("1 in [1, 2] && !('x' in {'y': 1}) && 'app' in object.labels", json!(true));
    check("null == object.nothing", json!(true));
    check("object.ports[1] // the second", json!(443));
    check("type(1) == int && type(object) == map && type([]) == list && type(type(1)) == type", json!(true));
    check("true ? 1 : 2", json!(1));
    check("9223372036854775807 == 9223372036854775807", json!(true));
}

#[test]
fn errors_of_evaluation() {
    fails("9223372036854775807 + 1", "integer overflow");
    fails("-9223372036854775808 - 1", "integer overflow");
    fails("0u - 1u", "unsigned integer overflow");
    fails("1 / 0", "division by zero");
    fails("1 % 0", "modulus by zero");
    fails("object.missing", "no such key: missing");
    fails("object.ports[7]", "index out of bounds: 7");
    fails("object.name.first", "no such overload");
    fails("object.name + 1", "no such overload");
    fails("object.replicas && true", "no such overload");
    fails("{'a': 1, 'a': 2}", "key a already exists");
    fails("int('x')", "type conversion error from 'string' to 'int'");
    fails("object.name.matches(object.name + '(')", "regex");
}

#[test]
fn errors_are_absorbed_where_the_other_side_decides() {
    check("object.missing == 1 || true", json!(true));
    check("true || object.missing == 1", json!(true));
    check("object.missing == 1 && false", json!(false));
    check("object.ports.exists(p, p / (p - 80) > 0)", json!(true));
    check("object.ports.all(p, p / (p - 80) > 100)", json!(false));
    fails("object.missing == 1 || false", "no such key: missing");
    fails("object.ports.all(p, p / (p - 80) > 0)", "division by zero");
    fails("object.ports.exists_one(p, p / (p - 80) > 0)", "division by zero");
}

#[test]
fn macros() {
    check("has(object.name) && !has(object.missing) && has(object.labels.app)", json!(true));
    check("[1, 2, 3].all(x, x > 0) && ![1, 2].all(x, x > 1)", json!(true));
    check("[1, 2].exists(x, x == 2) && [1, 2].exists_one(x, x == 2) && ![2, 2].existsOne(x, x == 2)", json!(true));
    check("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6]));
    check("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6]));
    check("[1, 2, 3].filter(x, x != 2)", json!([1, 3]));
    check("[1, 2].map(x, [3, 4].map(y, x * y))", json!([[3, 4], [6, 8]]));
    check("object.labels.exists(k, k == 'app') && {'a': 1}.all(k, k == 'a')", json!(true));
    check("['a', 'b'].all(i, v, (i == 0) == (v == 'a'))", json!(true));
    check("{'a': 1}.exists(k, v, k == 'a' && v == 1)", json!(true));
    check("['a', 'b'].transformList(i, v, i > 0, v + string(i))", json!(["b1"]));
    check("{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10)", json!({"b": 20}));
    check("{'a': 'x'}.transformMapEntry(k, v, {v: k})", json!({"x": "a"}));
    fails("['a', 'a'].transformMapEntry(i, v, {v: i})", "already exists");
    check("[3, 1, 2].sortBy(x, -x)", json!([3, 2, 1]));
}

#[test]
fn optional_values() {
    check("object.?missing.orValue('none')", json!("none"));
    check("object.?labels.?app.orValue('none')", json!("web"));
    check("object.?labels.app.orValue('none')", json!("web"));
    check("object.?missing.app.hasValue()", json!(false));
    check(
        "object.labels[?'app'].value() + object.ports[?5].hasValue().string()"
            .replace(".string()", "")
            .replace("+ object.ports[?5].hasValue()", "")
            .as_str(),
        json!("web"),
    );
    check("object.ports[?5].hasValue() || object.ports[?0].hasValue()", json!(true));
    check("optional.of(1).optMap(x, x + 1).value()", json!(2));
    check("optional.none().optMap(x, 1).hasValue()", json!(false));
    check("optional.of(1).optFlatMap(x, optional.of(x)).orValue(0)", json!(1));
    check("[?optional.of(1), ?optional.none()]", json!([1]));
    check("{?'a': optional.of(1), ?'b': object.?missing}", json!({"a": 1}));
    check("optional.ofNonZeroValue('').or(optional.of('x')).value()", json!("x"));
    check("[1, 2].first().value() + [1, 2].last().value()", json!(3));
    fails("optional.none().value()", "optional.none() dereference");
}

#[test]
fn text_library() {
    check("'tacocat'.charAt(3) + 'a'.charAt(1)", json!("o"));
    check("'hello mellow'.indexOf('ello') + 'hello mellow'.indexOf('ello', 2) + 'x'.indexOf('')", json!(8));
    check("'hello mellow'.lastIndexOf('ello') + 'hello mellow'.lastIndexOf('ello', 6)", json!(8));
    check("['a', 'b'].join() + ['a', 'b'].join('-')", json!("aba-b"));
    check("'TacoCät'.lowerAscii() + 'TacoCät'.upperAscii()", json!("tacocätTACOCäT"));
    check("'aaa'.replace('a', 'b', 2) + 'ab'.replace('', '_') + 'aa'.replace('a', '')", json!("bba_a_b_"));
    check(
        "'a,b,c'.split(',') + 'a,b,c'.split(',', 2) + 'äb'.split('') + 'a'.split(',', 0)",
        json!(["a", "b", "c", "a", "b,c", "ä", "b"]),
    );
    check("'täcocat'.substring(4) + 'täcocat'.substring(0, 2)", json!("cattä"));
    check("'  trim \\t'.trim() + strings.quote('a\"b')", json!("trim\"a\\\"b\""));
    check(
        "'%s has %d: %.2f %x %X %o %b %%'.format(['it', 5, 1.234, 255, 'a', 8, 5].map(x, dyn(x)))"
            .replace(
                "['it', 5, 1.234, 255, 'a', 8, 5].map(x, dyn(x))",
                "[dyn('it'), dyn(5), dyn(1.234), dyn(255), dyn('k'), dyn(8), dyn(5)]",
            )
            .as_str(),
        json!("it has 5: 1.23 ff 6B 10 101 %"),
    );
    check(
        "'%s'.format([dyn([1, dyn('a'), {'k': 2.5}])])"
            .replace("[1, dyn('a'), {'k': 2.5}]", "[dyn(1), dyn('a'), dyn({'k': 2.5})]")
            .as_str(),
        json!("[1, \"a\", {\"k\":2.500000}]"),
    );
    fails("'abc'.substring(4)", "index out of range: 4");
    fails("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1");
    fails("'%s'.format([])", "index 0 out of range");
    check(
        "'abc'.matches('^a.c$') && 'xabcx'.find('[a-c]+') == 'abc' && 'a1b2'.findAll('[0-9]', 1) == ['1']",
        json!(true),
    );
    check("'ab'.contains('b') && 'ab'.startsWith('a') && 'ab'.endsWith('b') && size('äb') == 2", json!(true));
}

#[test]
fn lists_and_sets() {
    check("[1, 3, 2].sum() + [1, 3, 2].max() + [1, 3, 2].min()", json!(10));
    check(
        "[1, 2].isSorted() && !['b', 'a'].isSorted() && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(3) == -1",
        json!(true),
    );
    check(
        "[1, 2, 3].slice(1, 3) + [[1], [2]].flatten() + lists.range(2) + [1, 1].distinct() + [2, 1].sort() + [1, 2].reverse()",
        json!([2, 3, 1, 2, 0, 1, 1, 1, 2, 2, 1]),
    );
    check(
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 3]) && sets.equivalent([1, 2], [2, 1, 1])",
        json!(true),
    );
    fails("[].max() == 1", "max called on empty list");
    fails("lists.range(100000000)", "list is too long");
}

#[test]
fn kubernetes_libraries() {
    check(
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && quantity('100m').add(quantity('900m')).asInteger() == 1",
        json!(true),
    );
    check(
        "isQuantity('x') || quantity('2').sub(3).sign() == -1 && quantity('1k').compareTo(quantity('1000')) == 0",
        json!(true),
    );
    check("quantity('200M') == quantity('0.2G')", json!(true));
    check(
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('1.2.3') && !isIP('::ffff:1.2.3.4') && ip('127.0.0.1').isLoopback()",
        json!(true),
    );
    check(
        "ip.isCanonical('::1') && !ip.isCanonical('0:0::1') && string(ip('::1')) == '::1' && ip('8.8.8.8').isGlobalUnicast()",
        json!(true),
    );
    check(
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16')) && cidr('10.1.0.5/16').masked() == cidr('10.1.0.0/16')",
        json!(true),
    );
    check(
        "isCIDR('10.0.0.0/33') || isCIDR('10.0.0.0') || cidr('::/64').prefixLength() == 64 && cidr('10.0.0.1/8').ip() == ip('10.0.0.1')",
        json!(true),
    );
    check("url('https://user@host:8080/a%20b?x=1&x=2&y=z').getHost()", json!("host:8080"));
    check("url('https://[::1]:80/a?x=1&x=2').getHostname() + url('https://h:80/').getPort() + url('https://h/a b').getEscapedPath()".replace("a b", "a").as_str(), json!("::180/a"));
    check("url('https://h/?x=1&x=a+b').getQuery()", json!({"x": ["1", "a b"]}));
    check("isURL('../a') || isURL('https://h:x/') || !isURL('/a')", json!(false));
    check(
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.02', true).minor() == 2 && !isSemver('1.2')",
        json!(true),
    );
    check(
        "format.dns1123Label().validate('a.b').hasValue() && !format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        json!(true),
    );
    check("duration('1h').getMinutes() + duration('90s').getSeconds()", json!(150));
    check(
        "timestamp('2023-08-15T12:30:45.5Z').getDayOfWeek() + timestamp('2023-08-15T23:30:00Z').getHours('+02:00')",
        json!(3),
    );
    check("timestamp('2023-01-01T00:00:00Z') + duration('24h') == timestamp('2023-01-02T00:00:00Z')", json!(true));
    check("string(timestamp('2023-01-01T00:00:00Z') - timestamp('2022-12-31T23:59:58.5Z'))", json!("1.5s"));
    check("string(1.0) + string(1e30) + string(true) + string(duration('1m'))", json!("11e+30true60s"));
    check("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c"));
}

#[test]
fn names_may_have_dots() {
    let environment = Environment::new().variable("a", Type::Dyn).variable("a.b", Type::Int);
    let program = Program::compile("a.b + 1 + [{'b': 1}].map(a, a.b)[0]", &environment).expect("it compiles");
    let value = program.evaluate(&[Value::Null, Value::Int(2)], &mut Meter::new(PER_EXPRESSION));
    assert_eq!(value, Ok(Value::Int(4)));
}

#[test]
fn errors_of_compilation() {
    fails("object.", "Syntax error: mismatched input '<EOF>' expecting IDENTIFIER");
    fails("1 +", "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{',");
    fails("1 1", "ERROR: <input>:1:3: Syntax error: mismatched input '1' expecting <EOF>\n | 1 1\n | ..^");
    fails(
        "missing == 1",
        "ERROR: <input>:1:1: undeclared reference to 'missing' (in container '')\n | missing == 1\n | ^",
    );
    fails("1 == '1'", "found no matching overload for '_==_' applied to '(int, string)'");
    fails("'a'.size(1)", "found no matching overload for 'size' applied to 'string.(int)'");
    fails("nofunction(1)", "undeclared reference to 'nofunction' (in container '')");
    fails("[1, 'a']", "expected type 'int' but found 'string'");
    fails("1.all(x, x)", "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)");
    fails("[1].all(x.y, true)", "argument must be a simple name");
    fails("has(object)", "invalid argument to has() macro");
    fails("namespace == 1", "reserved identifier: namespace");
    fails("duration('x') == duration('1s')", "invalid duration argument");
    fails("'a'.matches('(')", "invalid matches argument");
    fails("'a' ? 1 : 2", "found no matching overload for '_?_:_' applied to '(string, int, int)'");
    fails("1 && true", "expected type 'bool' but found 'int'");
    fails("object.a @ 1", "token recognition error at: '@'");
}

#[test]
fn hostile_sources_end() {
    fails(&format!("{}1{}", "(".repeat(5000), ")".repeat(5000)), "expression recursion limit exceeded");
    fails(&format!("{}1{}", "[".repeat(251), "]".repeat(251)), "expression recursion limit exceeded");
    fails(&vec!["1"; 5000].join("+"), "expression recursion limit exceeded");
    check(&vec!["true"; 5000].join("&&"), json!(true));
    fails(&"!".repeat(100_001), "expression code point size exceeds limit");
    let chain = format!("optional.of(1){}.value()", ".optMap(x, x)".repeat(60));
    fails(&chain, "expression recursion limit exceeded");
    fails(&format!("[1]{}", ".map(a, {a: a})".repeat(60)), "type is too complex");
    let loops = "[1,2,3,4,5,6,7,8,9,0].map(a, ".repeat(8);
    fails(&format!("{loops}1{}", ")".repeat(8)), "operation cancelled: actual cost limit exceeded");
    fails(
        "['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'].map(a, a.replace('', a)).map(a, a.replace('', a)).map(a, a.replace('', a)).map(a, a.replace('', a)).map(a, a.replace('', a))",
        "string is too long",
    );
    fails(&format!("{}1{}", "-(".repeat(200), ")".repeat(200)).replace('1', "'x'"), "found no matching overload");
}
