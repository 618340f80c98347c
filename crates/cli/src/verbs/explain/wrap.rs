//! Words wrapped at a width as `github.com/mitchellh/go-wordwrap` does it. Pure.

/// A text whose lines have at most `width` letters, as far as its words allow.
pub fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut space, mut word) = (String::new(), String::new());
    let (mut column, mut space_length, mut word_length) = (0, 0, 0);
    for letter in text.chars() {
        if letter == '\n' {
            if word.is_empty() {
                if column + space_length <= width {
                    out.push_str(&space);
                }
            } else {
                out.push_str(&space);
                out.push_str(&word);
            }
            space.clear();
            word.clear();
            (space_length, word_length) = (0, 0);
            out.push('\n');
            column = 0;
        } else if letter.is_whitespace() && letter != '\u{a0}' {
            if space.is_empty() || !word.is_empty() {
                column += space_length + word_length;
                out.push_str(&space);
                space.clear();
                space_length = 0;
                out.push_str(&word);
                word.clear();
                word_length = 0;
            }
            space.push(letter);
            space_length += 1;
        } else {
            word.push(letter);
            word_length += 1;
            if column + word_length + space_length > width && word_length < width {
                out.push('\n');
                column = 0;
                space.clear();
                space_length = 0;
            }
        }
    }
    if word.is_empty() {
        if column + space_length <= width {
            out.push_str(&space);
        }
    } else {
        out.push_str(&space);
        out.push_str(&word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |text: &str, expected: &str| assert_eq!(wrapped(text, 10), expected, "{text:?}");
        check("", "");
        check("one two three four", "one two\nthree four");
        check("averyveryverylongword x", "averyveryverylongword\nx");
        check("a\n\nb  c", "a\n\nb  c");
        check("12345 67890 ", "12345\n67890 ");
    }
}
