//! `kobune plan`, `apply`, `history` and `rollback` from a newcomer's first batch to the day it is taken apart, with kubectl
//! looking on.

use std::path::PathBuf;

use kobune_testbed::{Cluster, Finished, eventually};

use crate::cluster;

/// A whole application: its namespace, a definition with an object of it, configuration, and what runs.
const SHOP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: kobune.local/kobune
        imagePullPolicy: IfNotPresent
        command: [sleep, infinity]
        ports: [{containerPort: 53, protocol: TCP}, {containerPort: 53, protocol: UDP}]
---
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: one, namespace: shop}
spec: {length: 4}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: shop}
stringData: {password: hush-hush}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, namespace: shop}
data: {greeting: hello, gone: soon}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {length: {type: integer}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"#;

/// Runs kobune as a client of the cluster.
struct Client<'c> {
    cluster: &'c Cluster,
    folder: PathBuf,
}

impl Client<'_> {
    fn run(&self, arguments: &[&str]) -> Finished {
        let kubeconfig = self.cluster.kubeconfig();
        let kubeconfig = kubeconfig.to_str().expect("the path is text");
        self.cluster.kobune(arguments.iter().copied().chain(["--kubeconfig", kubeconfig])).expect("kobune runs")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("a file is written");
        path.to_str().expect("the path is text").to_owned()
    }

    /// The exit code, the output and the errors.
    #[track_caller]
    fn expect(&self, arguments: &[&str], code: i32, parts: &[&str]) -> String {
        let finished = self.run(arguments);
        let all = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.status.code(), Some(code), "{arguments:?}\n{all}");
        for part in parts {
            assert!(all.contains(part), "{arguments:?}\n{all}\nlacks {part:?}");
        }
        all
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments).expect("kubectl runs").ok()
    }
}

#[test]
fn a_batch_from_its_first_plan_to_its_end() {
    let cluster = cluster();
    let folder = cluster.data_dir().join("batches");
    std::fs::create_dir(&folder).expect("a folder is made");
    let client = Client { cluster: &cluster, folder };
    let shop = client.file("shop.yaml", SHOP);

    // One plan for a batch that brings its own namespace and kind; it comes to pass, and then there is nothing left to do.
    let plan = client.expect(&["plan", "-f", &shop, "--applyset", "shop"], 1, &["Plan: 6 to create."]);
    assert!(plan.find("namespace/shop") < plan.find("boat/one"), "what others need comes first\n{plan}");
    assert!(!plan.contains("hush") && !plan.contains("aHVza"), "secrets stay hidden\n{plan}");
    let first = ["apply", "-f", &shop, "--applyset", "shop"];
    client.expect(&first, 0, &["boat/one in shop created", "deployment/web in shop ready", "Done: 6 created."]);
    let versions = || {
        client.kubectl(&[
            "get",
            "deploy/web",
            "boat/one",
            "cm/conf",
            "secret/key",
            "-n",
            "shop",
            "-o",
            "jsonpath={.items[*].metadata.resourceVersion}",
        ])
    };
    let before = versions();
    client.expect(&["plan", "-f", &shop, "--applyset", "shop"], 0, &["Plan: 6 unchanged."]);
    client.expect(&first, 0, &["Done: 6 unchanged."]);
    assert_eq!(versions(), before, "applying twice writes nothing");

    // Both ports that share a number are there, and kubectl reads the set.
    let ports = client.kubectl(&[
        "get",
        "deploy",
        "web",
        "-n",
        "shop",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].ports[*].protocol}",
    ]);
    assert_eq!(ports, "TCP UDP");
    let id = client.kubectl(&[
        "get",
        "secret",
        "shop",
        "-n",
        "shop",
        "-o",
        "jsonpath={.metadata.labels.applyset\\.kubernetes\\.io/id}",
    ]);
    let members = client.kubectl(&[
        "get",
        "deploy,cm,secret,boat",
        "-n",
        "shop",
        "-o",
        "name",
        "-l",
        &format!("applyset.kubernetes.io/part-of={id}"),
    ]);
    assert_eq!(members.lines().count(), 4, "{members}");
    let mut rival = cluster.client(kobune_testbed::tools().join("kubectl"));
    rival.env("KUBECTL_APPLYSET", "true").args(["apply", "-n", "shop", "--prune", "--applyset=shop", "-f", &shop]);
    let rival = rival.output().expect("kubectl runs");
    let words = String::from_utf8_lossy(&rival.stderr);
    assert!(!rival.status.success() && words.contains("kobune"), "kubectl sees whose set it is: {words}");

    // A field that somebody else has changed is not taken silently.
    client.kubectl(&["scale", "-n", "shop", "deploy/web", "--replicas=0"]);
    let second = client.file(
        "second.yaml",
        &SHOP.replace("replicas: 1", "replicas: 2").replace(", gone: soon", "").replace("length: 4", "length: 5"),
    );
    let again = ["apply", "-f", &second, "--applyset", "shop"];
    let conflict = [
        "spec.replicas  0 → 2  kubectl through scale holds it",
        "spec.length  4 → 5  you changed it",
        "data.gone  - soon  you removed it",
    ];
    client.expect(&["plan", "-f", &second, "--applyset", "shop"], 1, &conflict);
    client.expect(&again, 1, &["nothing was applied", "--force-conflicts"]);
    assert_eq!(versions().split(' ').nth(1), before.split(' ').nth(1), "nothing was applied");

    // A plan that was reviewed is what happens, or nothing does.
    let sealed = client.folder.join("plan.json");
    let sealed = sealed.to_str().expect("the path is text");
    let reviewed = ["plan", "-f", &second, "--applyset", "shop", "--force-conflicts", "--out", sealed];
    client.expect(&reviewed, 1, &["3 to change"]);
    client.kubectl(&["patch", "boat", "one", "-n", "shop", "--type=merge", "-p", r#"{"spec":{"length":7}}"#]);
    client.expect(&["apply", "--plan", sealed], 1, &["the cluster has moved", "boat/one: moved from resourceVersion"]);
    client.kubectl(&["patch", "boat", "one", "-n", "shop", "--type=merge", "-p", r#"{"spec":{"length":4}}"#]);
    client.expect(&reviewed, 1, &["3 to change"]);
    client.expect(&["apply", "--plan", sealed], 0, &["Done: 3 changed, 3 unchanged."]);

    // Back to the first revision, byte for byte.
    let seen = || {
        client.kubectl(&[
            "get",
            "deploy/web",
            "cm/conf",
            "secret/key",
            "boat/one",
            "-n",
            "shop",
            "-o",
            "jsonpath={range .items[*]}{.kind}{.spec}{.data}{.metadata.labels}{end}",
        ])
    };
    let after_second = seen();
    client.expect(&["history", "shop", "-n", "shop"], 0, &["REVISION", "3 to change"]);
    client.expect(&["rollback", "shop", "-n", "shop"], 0, &["Done: 3 changed, 3 unchanged."]);
    client.expect(&["plan", "-f", &shop, "--applyset", "shop"], 0, &["Plan: 6 unchanged."]);
    client.expect(&["rollback", "shop", "-n", "shop"], 0, &["Done: 3 changed, 3 unchanged."]);
    assert_eq!(seen(), after_second, "back and forth is where it was");
    client.expect(&["history", "shop", "-n", "shop", "--revision", "1"], 0, &["gone: soon", "(hidden, 9 bytes)"]);

    // What cannot change is said before it fails, and made again when that is wanted.
    let other =
        client.file("other.yaml", &SHOP.replace("{app: web}", "{app: other}").replace("replicas: 1", "replicas: 2"));
    let recreate = ["apply", "-f", &other, "--applyset", "shop"];
    client.expect(
        &recreate,
        1,
        &["deployment/web in shop is deleted and made again", "field is immutable", "--recreate"],
    );
    client.expect(
        &[&recreate[..], &["--recreate"]].concat(),
        0,
        &["deployment/web in shop recreated", "deployment/web in shop ready"],
    );

    // What holds a workload up is said at once.
    let broken = client
        .file("broken.yaml", &SHOP.replace("sleep, infinity", "no-such-program").replace("{app: web}", "{app: other}"));
    let words = client.expect(
        &["apply", "-f", &broken, "--applyset", "shop", "--timeout", "5"],
        1,
        &[
            "deployment/web in shop waits for pod web-",
            "no-such-program",
            "stopped: everything is written, but not everything is ready",
        ],
    );
    assert!(words.contains("kobune rollback shop -n shop"), "{words}");

    // Pruning takes what left the manifests, and nothing that the set did not bring.
    client.kubectl(&["create", "configmap", "bystander", "-n", "shop"]);
    let documents: Vec<&str> = SHOP.split("---").collect();
    let small = client.file("small.yaml", &documents[4..].join("---"));
    client.expect(
        &["plan", "-f", &small, "--applyset", "shop", "--applyset-namespace", "shop", "--prune", "--summary"],
        1,
        &["4 to prune", "--max-prune"],
    );
    let prune = ["apply", "-f", &small, "--applyset", "shop", "--applyset-namespace", "shop", "--prune"];
    client.expect(&prune, 1, &["4 of the set's 6 objects would go"]);
    client.expect(
        &[&prune[..], &["--max-prune", "70"]].concat(),
        0,
        &["boat/one in shop pruned", "Done: 4 pruned, 2 unchanged."],
    );
    let left = client.kubectl(&["get", "deploy,boat,cm,secret", "-n", "shop", "-o", "name"]);
    assert!(
        left.contains("configmap/bystander") && !left.contains("web") && !left.contains("configmap/conf"),
        "{left}"
    );
}

#[test]
fn what_others_applied_is_taken_over_and_mistakes_come_together() {
    let cluster = cluster();
    let folder = cluster.data_dir().join("batches");
    std::fs::create_dir(&folder).expect("a folder is made");
    let client = Client { cluster: &cluster, folder };

    // Of kubectl's client-side apply nothing is left behind: no field, no annotation, no owner.
    let text =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old, namespace: default}\ndata: {kept: a, dropped: b}\n";
    let old = client.file("old.yaml", text);
    client.kubectl(&["apply", "-f", &old]);
    let new = client.file("new.yaml", &text.replace(", dropped: b", ""));
    client.expect(&["plan", "-f", &new], 0, &["1 to adopt"]);
    let take = ["plan", "-f", &new, "--take-over", "kubectl"];
    client.expect(
        &take,
        1,
        &["data.dropped  - b  not in your manifest (from kubectl-client-side-apply)", "last-applied-configuration"],
    );
    client.expect(&["apply", "-f", &new, "--take-over", "kubectl"], 0, &["configmap/old in default changed"]);
    let after = client.kubectl(&[
        "get",
        "configmap",
        "old",
        "-o",
        "jsonpath={.data}{.metadata.annotations}{.metadata.managedFields[*].manager}",
        "--show-managed-fields",
    ]);
    assert_eq!(after, r#"{"kept":"a"}kobune"#);
    client.expect(&take, 0, &["1 unchanged"]);

    // Neither is of Argo CD, which applies as kubectl does, by patches or on the server, and marks what it tracks.
    for (name, how) in [("patched", &[] as &[&str]), ("served", &["--server-side"])] {
        let plain = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{a: b}}\n"
        );
        let tracked = format!(
            "{{name: {name}, labels: {{app.kubernetes.io/instance: shop}}, annotations: {{argocd.argoproj.io/tracking-id: \"shop:/ConfigMap:default/{name}\"}},"
        );
        let argo = client.file("argo.yaml", &plain.replace(&format!("{{name: {name},"), &tracked));
        client.kubectl(&[&["apply", "-f", &argo, "--field-manager=argocd-controller"], how].concat());
        let plain = client.file("plain.yaml", &plain);
        client.expect(&["apply", "-f", &plain, "--take-over", "argocd"], 0, &["changed"]);
        let output = "jsonpath={.metadata.labels}{.metadata.annotations}{.metadata.managedFields[*].manager}";
        let after = client.kubectl(&["get", "configmap", name, "-o", output, "--show-managed-fields"]);
        assert_eq!(after, "kobune", "{name}");
    }

    // Several mistakes in one go, each where it stands; nothing is applied.
    let bad = client.file(
        "bad.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good, namespace: default}\n---\n\
         apiVersion: v1\nkind: ConfigMop\nmetadata: {name: a, namespace: default}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lost}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: default}\nspec:\n  selectr: {a: b}\n  ports: [{port: 80}]\n",
    );
    let expected = [
        "4 mistakes; nothing was applied",
        "bad.yaml:6:7: this cluster has no kind ConfigMop in v1",
        "did you mean ConfigMap of v1?",
        "bad.yaml:11:1: configmap/lost: no namespace",
        "bad.yaml:15:32: configmap/a: there is no namespace nowhere",
        "unknown field \"spec.selectr\"",
        "did you mean selector?",
    ];
    client.expect(&["plan", "-f", &bad], 2, &expected);
    client.expect(&["apply", "-f", &bad], 1, &expected);
    let left = client.kubectl(&["get", "configmap", "good", "--ignore-not-found", "-o", "name"]);
    assert_eq!(left, "");
    let system =
        client.file("system.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: kube-system}\n");
    client.expect(
        &["apply", "-f", &system],
        1,
        &["namespace kube-system is protected", "--allow-protected-namespace kube-system"],
    );

    // The other forms of a plan.
    let json = client.run(&["plan", "-f", &old, "-o", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&json.stdout).expect("a plan in JSON");
    assert_eq!(plan["items"][0]["changes"][0]["path"], "data.dropped", "{plan}");
    client.expect(&["plan", "-f", &old, "-o", "markdown"], 1, &["### kobune plan: 1 to change", "<details>"]);
    client.expect(&["plan", "-f", &old, "-o", "html"], 1, &["<!doctype html>", "data.dropped"]);

    // Everyday verbs print what kubectl prints.
    let pods = client.file("pods.yaml", SPEAKERS);
    client.expect(&["apply", "-f", &pods], 0, &["job/speaker in default ready"]);
    for arguments in [
        &["get", "pods,jobs,cm", "-A"][..],
        &["get", "all", "-o", "wide", "--show-labels"],
        &["get", "job", "speaker", "nobody", "-L", "app,tier"],
        &["get", "job/speaker", "cm/old", "-o", "json"],
        &["get", "svc", "-A", "-o", "name"],
        &["get", "nodes", "-o", "wide", "--no-headers"],
        &["get", "pods", "-n", "nowhere"],
        &["get", "clusterroles", "-l", "kubernetes.io/bootstrapping=rbac-defaults", "--chunk-size", "7"],
        &["get", "cm,sa", "-A", "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name}{\"\\n\"}{end}"],
        &["get", "job", "speaker", "-o", "jsonpath={.spec.template.spec}{.metadata.labels.tier}{.none}"],
        &["get", "job/speaker", "-o", "jsonpath={.spec.template.spec.containers[?(@.name==\"second\")].command[0:1]}"],
        &[
            "get",
            "pods",
            "-A",
            "-o",
            "custom-columns=NAME:.metadata.name,L:.metadata.labels,C:{.spec.containers[*].name}",
        ],
        &["get", "clusterroles", "--sort-by=.metadata.name", "-o", "custom-columns=N:metadata.name", "--no-headers"],
        &["get", "clusterroles", "--sort-by", "{.metadata.resourceVersion}", "--chunk-size", "7", "-o", "name"],
        &["get", "nodes", "--sort-by=.metadata.name", "--show-labels"],
        &["api-resources", "-o", "wide"],
        &["auth", "can-i", "create", "deployments.apps"],
        &["auth", "can-i", "fly", "boats", "--as", "nobody"],
        &["auth", "can-i", "get", "/healthz"],
        &["logs", "-l", "app=speaker", "--prefix", "--tail=1"],
        &["logs", "job/speaker", "-c", "second"],
        &["logs", "job/speaker", "--all-containers", "--timestamps", "--since=1h"],
    ] {
        // Ages may tick between the two commands.
        eventually(&format!("{arguments:?} prints what kubectl prints"), crate::SETTLE, || {
            let theirs = cluster.kubectl(arguments).map_err(|error| error.to_string())?;
            let ours = client.run(arguments);
            let same = ours.stdout == theirs.stdout && ours.status.code() == theirs.status.code();
            if same {
                Ok(())
            } else {
                Err(format!("{:?}\n{}\n{}\n{}{}", ours.status, ours.stdout, theirs.stdout, ours.stderr, theirs.stderr))
            }
        });
    }

    // Changing and deleting say what kubectl says, one after the other on objects that are alike.
    for name in ["theirs", "ours"] {
        client.kubectl(&["create", "deployment", name, "--image=kobune.local/kobune", "--replicas=0"]);
    }
    let alike = |verb: &[&str]| {
        let with = |name: &str| verb.iter().map(|word| word.replace("NAME", name)).collect::<Vec<_>>();
        let theirs = cluster.kubectl(with("theirs")).expect("kubectl runs");
        let ours = with("ours");
        let ours = client.run(&ours.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ours.stdout, theirs.stdout.replace("theirs", "ours"), "{verb:?} {} {}", ours.stderr, theirs.stderr);
        assert_eq!(ours.status.code(), theirs.status.code(), "{verb:?}");
    };
    alike(&["scale", "deployment", "NAME", "--replicas=1"]);
    alike(&["scale", "deployment/NAME", "--replicas=3", "--current-replicas=2"]);
    alike(&["delete", "deploy/NAME", "--cascade=foreground"]);
    alike(&["delete", "deploy/NAME"]);
    alike(&["delete", "deploy/NAME", "--ignore-not-found"]);
    assert_eq!(client.kubectl(&["get", "deploy,rs", "-o", "name"]), "");
    client.expect(
        &["delete", "-f", &pods, "--wait=true"],
        0,
        &["job.batch \"speaker\" deleted from default namespace"],
    );
    assert_eq!(client.kubectl(&["get", "jobs", "-o", "name"]), "");

    // A kustomization: what is planned and applied is what kobune builds of it, and what kubectl builds of it is the same.
    client.file("kustomization.yaml", "namespace: default\nconfigMapGenerator: [{name: built, literals: [a=b]}]\n");
    let folder = client.folder.to_str().expect("the path is text");
    client.expect(&["plan", "-k", folder], 1, &["Plan: 1 to create.", "configmap/built-"]);
    client.expect(&["apply", "-k", folder], 0, &["Done: 1 created."]);
    let unchanged = cluster.kubectl(["diff", "-k", folder]).expect("kubectl runs");
    assert_eq!(unchanged.status.code(), Some(0), "{}{}", unchanged.stdout, unchanged.stderr);
    client.expect(&["plan", "-k", folder, "-f", folder], 2, &["cannot be used with"]);
}

/// A pod of two containers that say something.
const SPEAKERS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: speaker, namespace: default, labels: {tier: back}}
spec:
  template:
    metadata: {labels: {app: speaker}}
    spec:
      restartPolicy: Never
      containers:
      - {name: first, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, command: [echo, one]}
      - {name: second, image: kobune.local/kobune, imagePullPolicy: IfNotPresent, command: [echo, two]}
"#;
