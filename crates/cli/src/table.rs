//! Columns of text, aligned as kubectl aligns them (cli-runtime's `GetNewTabWriter`): a column is as wide as its widest cell
//! and three more, six at least; the last cell of a line ends it.

/// Rows with the columns one below the other.
pub fn aligned<R: AsRef<[String]>>(rows: &[R]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    widen(&mut widths, rows);
    aligned_to(&widths, rows)
}

/// Makes columns as wide as these rows need them.
pub fn widen<R: AsRef<[String]>>(widths: &mut Vec<usize>, rows: &[R]) {
    for row in rows {
        for (column, cell) in row.as_ref().iter().enumerate() {
            if column == widths.len() {
                widths.push(6);
            }
            widths[column] = widths[column].max(cell.chars().count() + 3);
        }
    }
}

/// Rows in columns of given widths.
pub fn aligned_to<R: AsRef<[String]>>(widths: &[usize], rows: &[R]) -> String {
    let mut out = String::new();
    for row in rows {
        let row = row.as_ref();
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:width$}", width = widths[column]));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let rows = [["NAME", "A", "B"], ["long-name", "x", ""], ["ö", "", "end"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "NAME        A     B\nlong-name   x     \nö                 end\n");
    }
}
