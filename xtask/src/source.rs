//! Splits Rust and Solidity source into what is code and what is comment, line for line, so that a rule about code
//! is not fooled by a comment or a string, nor the other way round.

/// A source text, split. Both halves have the lines of the original; what belongs to the other half, and the inside of
/// string literals, is blank.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// Code without comments and without the contents of string and character literals.
    pub(crate) code: String,
    /// Comments only.
    pub(crate) comments: String,
}

/// What the characters at a position belong to.
enum Part {
    Code,
    Comment,
    Literal,
}

/// Splits `text`. Text that ends inside a literal or a comment is taken as ending there.
pub(crate) fn split(text: &str) -> Split {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Split::default();
    let mut at = 0;
    while at < chars.len() {
        let (part, end) = next_part(&chars, at);
        for &c in chars.get(at..end).unwrap_or_default() {
            let (code, comment) = match (c, &part) {
                ('\n', _) => ('\n', '\n'),
                (c, Part::Code) => (c, ' '),
                (c, Part::Comment) => (' ', c),
                (_, Part::Literal) => (' ', ' '),
            };
            out.code.push(code);
            out.comments.push(comment);
        }
        at = end;
    }
    out
}

/// The part that begins at `at`, and where it ends (always past `at`).
fn next_part(chars: &[char], at: usize) -> (Part, usize) {
    let peek = |offset: usize| chars.get(at + offset).copied().unwrap_or('\0');
    let after_ident = at > 0 && chars.get(at - 1).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    match peek(0) {
        '/' if peek(1) == '/' => (Part::Comment, find(chars, at, '\n')),
        '/' if peek(1) == '*' => (Part::Comment, block_comment_end(chars, at)),
        '"' => (Part::Literal, string_end(chars, at + 1)),
        'r' if !after_ident || chars.get(at.wrapping_sub(1)) == Some(&'b') => match raw_string_end(chars, at) {
            Some(end) => (Part::Literal, end),
            None => (Part::Code, at + 1),
        },
        // A character literal; a lifetime has no closing quote.
        '\'' if peek(1) == '\\' => (Part::Literal, chars.len().min(find(chars, at + 3, '\'') + 1)),
        '\'' if peek(2) == '\'' => (Part::Literal, at + 3),
        _ => (Part::Code, at + 1),
    }
}

fn find(chars: &[char], from: usize, wanted: char) -> usize {
    (from..chars.len()).find(|&i| chars.get(i) == Some(&wanted)).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut i = at;
    while i < chars.len() {
        match (chars.get(i), chars.get(i + 1)) {
            (Some('/'), Some('*')) => {
                depth += 1;
                i += 2;
            }
            (Some('*'), Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut i = from;
    while i < chars.len() {
        match chars.get(i) {
            Some('\\') => i += 2,
            Some('"') => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r#"…"#` that begins at `at`, or `None` when this `r` begins something else.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars.get(at + 1..)?.iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let mut i = open + 1;
    while i < chars.len() {
        let closes = chars.get(i) == Some(&'"')
            && chars.get(i + 1..i + 1 + hashes).is_some_and(|tail| tail.iter().all(|c| *c == '#'));
        if closes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(chars.len())
}

/// Whether `line` holds `word` with no letter, digit or underscore on either side.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, found)| {
        let before = line.get(..at).and_then(|s| s.chars().next_back());
        let after = line.get(at + found.len()..).and_then(|s| s.chars().next());
        !before.is_some_and(ident) && !after.is_some_and(ident)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, comments: &str) {
        let squeeze = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
        let split = split(text);
        assert_eq!(squeeze(&split.code), code, "code of {text:?}");
        assert_eq!(squeeze(&split.comments), comments, "comments of {text:?}");
        assert_eq!(split.code.lines().count(), text.lines().count(), "lines of {text:?}");
    }

    #[test]
    fn comments_leave_the_code() {
        check("let a = 1; // one\nlet b;", "let a = 1; let b;", "// one");
        check("a /* x /* y */ z */ b", "a b", "/* x /* y */ z */");
        check("a /* never closed", "a", "/* never closed");
    }

    #[test]
    fn literals_belong_to_neither() {
        check(r#"f("a // b \" c", d)"#, "f( , d)", "");
        check(r##"f(r#"a " // b"#, d)"##, "f( , d)", "");
        check(r#"f(br"\", d)"#, "f(b , d)", "");
        check("for<'a> f('\\'', '\"', '/')", "for<'a> f( , , )", "");
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use iroh::Endpoint;", "iroh"));
        assert!(!has_word("use iroh_base::Key;", "iroh"));
        assert!(!has_word("let my_iroh = 1;", "iroh"));
    }
}
