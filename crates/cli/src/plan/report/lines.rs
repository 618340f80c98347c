//! Texts compared line by line. Pure.

/// A line of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// It stays.
    Same(String),
    /// It goes.
    Old(String),
    /// It comes.
    New(String),
    /// So many lines that stay are not shown.
    Skipped(usize),
}

/// How many lines that stay are shown around one that does not.
const CONTEXT: usize = 2;

/// The largest table that is computed; texts beyond it are shown as old and new in one piece.
const LARGEST: usize = 4_000_000;

/// What stays, goes and comes, with a little of what stays around it.
pub fn compare(old: &str, new: &str) -> Vec<Line> {
    let (left, right): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let start = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
    let (inner_left, inner_right) = (&left[start..], &right[start..]);
    let end = inner_left.iter().rev().zip(inner_right.iter().rev()).take_while(|(left, right)| left == right).count();
    let (middle_left, middle_right) = (&inner_left[..inner_left.len() - end], &inner_right[..inner_right.len() - end]);
    let same = |lines: &[&str]| lines.iter().map(|line| Line::Same((*line).to_owned())).collect::<Vec<_>>();
    let mut lines = same(&left[..start]);
    lines.extend(middle(middle_left, middle_right));
    lines.extend(same(&inner_left[inner_left.len() - end..]));
    shorten(lines)
}

/// The longest common subsequence by the plain table: manifests are short.
fn middle(left: &[&str], right: &[&str]) -> Vec<Line> {
    let old = |line: &&str| Line::Old((*line).to_owned());
    let new = |line: &&str| Line::New((*line).to_owned());
    if left.len() * right.len() > LARGEST {
        return left.iter().map(old).chain(right.iter().map(new)).collect();
    }
    let width = right.len() + 1;
    let mut table = vec![0_u32; (left.len() + 1) * width];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            table[i * width + j] = if left[i] == right[j] {
                table[(i + 1) * width + j + 1] + 1
            } else {
                table[(i + 1) * width + j].max(table[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(left.len() + right.len());
    while i < left.len() && j < right.len() {
        if left[i] == right[j] {
            lines.push(Line::Same(left[i].to_owned()));
            (i, j) = (i + 1, j + 1);
        } else if table[(i + 1) * width + j] >= table[i * width + j + 1] {
            lines.push(old(&left[i]));
            i += 1;
        } else {
            lines.push(new(&right[j]));
            j += 1;
        }
    }
    lines.extend(left[i..].iter().map(old));
    lines.extend(right[j..].iter().map(new));
    lines
}

fn shorten(lines: Vec<Line>) -> Vec<Line> {
    let near = |index: usize| {
        let from = index.saturating_sub(CONTEXT);
        let to = (index + CONTEXT + 1).min(lines.len());
        lines[from..to].iter().any(|line| !matches!(line, Line::Same(_)))
    };
    let mut short = Vec::new();
    let mut skipped = 0;
    for (index, line) in lines.iter().enumerate() {
        if near(index) {
            if skipped > 0 {
                short.push(Line::Skipped(skipped));
                skipped = 0;
            }
            short.push(line.clone());
        } else {
            skipped += 1;
        }
    }
    if skipped > 0 {
        short.push(Line::Skipped(skipped));
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(lines: &[Line]) -> String {
        let line = |line: &Line| match line {
            Line::Same(text) => format!(" {text}"),
            Line::Old(text) => format!("-{text}"),
            Line::New(text) => format!("+{text}"),
            Line::Skipped(count) => format!("…{count}"),
        };
        lines.iter().map(line).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn what_comes_and_goes() {
        let check =
            |old: &str, new: &str, expected: &str| assert_eq!(written(&compare(old, new)), expected, "{old:?} {new:?}");
        check("a\nb\nc", "a\nx\nc", " a|-b|+x| c");
        check("", "a\nb", "+a|+b");
        check("1\n2\n3\n4\n5\n6\n7", "1\n2\n3\n4\n5\n6\n8", "…4| 5| 6|-7|+8");
        check("a", "a", "…1");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(old in "([ab]\n){0,8}", new in "([ab]\n){0,8}") {
            let (left, right): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
            let lines = middle(&left, &right);
            let of = |wanted: fn(&Line) -> Option<&String>| lines.iter().filter_map(wanted).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(|line| match line { Line::Same(text) | Line::Old(text) => Some(text), _ => None }), left);
            prop_assert_eq!(of(|line| match line { Line::Same(text) | Line::New(text) => Some(text), _ => None }), right);
        }
    }
}
