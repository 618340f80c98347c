//! Columns of text, aligned as kubectl aligns them: three spaces between columns, none at the end of a line's last cell.

/// Rows with the columns one below the other.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == N {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:width$}   ", width = widths[column]));
            }
        }
        out.push('\n');
    }
    out
}
