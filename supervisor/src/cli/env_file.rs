//! A file with variables for a program: `KEY=value`, one per line.

use std::path::Path;

use super::error::ConfigError;
use super::file::read;

/// A name and a value.
type Variable = (String, String);

/// The variables of a file, in its order. If one is there twice, the last value counts.
pub(super) fn variables(path: &Path) -> Result<Vec<Variable>, ConfigError> {
    let variables = read(path).and_then(|bytes| understand(&bytes).map_err(ConfigError::Invalid));
    variables.map_err(|problem| problem.in_file(path.display()))
}

/// Parses the text of such a file. An error names the line.
pub(super) fn understand(bytes: &[u8]) -> Result<Vec<Variable>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8; save it as UTF-8 text")?;
    // Editors on Windows put a byte order mark there.
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Vec::new();
    let mut number = 1;
    while !rest.is_empty() {
        let (variable, behind) = line(rest).map_err(|problem| format!("line {number}: {problem}"))?;
        variables.extend(variable);
        // A quoted value may span several lines.
        number += rest[..rest.len() - behind.len()].matches('\n').count();
        rest = behind;
    }
    Ok(variables)
}

/// The variable in the first line of this text, if there is one, and the text after it.
fn line(text: &str) -> Result<(Option<Variable>, &str), &'static str> {
    let (this, behind) = text.split_once('\n').unwrap_or((text, ""));
    let this = this.trim();
    if this.is_empty() || this.starts_with('#') {
        return Ok((None, behind));
    }
    let (name, _) = this.split_once('=').ok_or("say KEY=value")?;
    let key = name.strip_prefix("export").filter(|key| key.starts_with([' ', '\t'])).unwrap_or(name).trim_start();
    check_name(key)?;
    let value = &text[text.find('=').unwrap_or(0) + 1..];
    // All whitespace except the end of the line.
    let value = value.trim_start_matches([' ', '\t', '\r']);
    let (value, behind) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(&value[1..], quote)?,
        Some(_) | None => {
            let (value, behind) = value.split_once('\n').unwrap_or((value, ""));
            (without_comment(value).trim().to_owned(), behind)
        }
    };
    if value.contains('\0') {
        return Err("a value cannot have a NUL character");
    }
    Ok((Some((key.to_owned(), value)), behind))
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    let belongs = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    match () {
        () if name.is_empty() => Err("there is no name before the ="),
        () if name.ends_with([' ', '\t']) => Err("there is a space before the =; say KEY=value"),
        () if !name.starts_with(begins) => Err("a name begins with a letter or an underscore"),
        () if !name.chars().all(belongs) => Err("a name has letters, digits, underscores, dots and hyphens"),
        () => Ok(()),
    }
}

/// The value up to this quote, and the text after its line. In single quotes everything is literal; in double quotes a
/// backslash affects the next character.
fn quoted(text: &str, quote: char) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => {
                let behind = &text[at + 1..];
                let (rest, behind) = behind.split_once('\n').unwrap_or((behind, ""));
                let rest = rest.trim();
                return match rest.is_empty() || rest.starts_with('#') {
                    true => Ok((value, behind)),
                    false => Err("there is something behind the closing quote"),
                };
            }
            '\\' if quote == '"' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => value.push(escaped),
                // The value continues on the next line.
                Some((_, '\n')) => {}
                Some((at, '\r')) if text[at..].starts_with("\r\n") => drop(characters.next()),
                Some((_, other)) => value.extend(['\\', other]),
                None => {}
            },
            _ => value.push(character),
        }
    }
    Err("the quote that begins here is not closed")
}

/// A value without quotes ends where a comment begins, with a space before it.
fn without_comment(value: &str) -> &str {
    let begins = value
        .char_indices()
        .find(|&(at, character)| character == '#' && value[..at].chars().next_back().is_none_or(char::is_whitespace));
    begins.map_or(value, |(at, _)| &value[..at])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, expected) in [
            ("A=1", &[("A", "1")][..]),
            ("A=1\nB=2\n", &[("A", "1"), ("B", "2")]),
            (
                "\u{feff}# a comment\r\n\r\n  export A=1 \r\nB =\r\n".replace(" =", "=").as_str(),
                &[("A", "1"), ("B", "")],
            ),
            ("export\tA=x y  # favourite\nB=a#b", &[("A", "x y"), ("B", "a#b")]),
            ("export=1", &[("export", "1")]),
            ("A=a=b", &[("A", "a=b")]),
            ("A=# nothing", &[("A", "")]),
            (r#"A="a \"b\" \\ \$c \n\x" # comment"#, &[("A", "a \"b\" \\ $c \n\\x")]),
            ("A='a \"b\" \\n $c'", &[("A", "a \"b\" \\n $c")]),
            ("KEY=\"-----BEGIN\nabc\n-----END\"\nB=$A", &[("KEY", "-----BEGIN\nabc\n-----END"), ("B", "$A")]),
            ("A=\"one \\\ntwo\"\r\nB=\"one \\\r\ntwo\"", &[("A", "one two"), ("B", "one two")]),
            ("A=it's", &[("A", "it's")]),
            ("A= padded", &[("A", "padded")]),
            ("", &[]),
            ("\n\n#", &[]),
        ] {
            let expected = expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(understand(text.as_bytes()), Ok::<Vec<_>, String>(expected), "{text:?}");
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named_by_its_number() {
        for (text, problem) in [
            ("A=1\nB", "line 2: say KEY=value"),
            ("A='x\ny'\n\nB = 2", "line 4: there is a space before the =; say KEY=value"),
            ("=1", "line 1: there is no name before the ="),
            ("1A=1", "line 1: a name begins with a letter or an underscore"),
            ("A B=1", "line 1: a name has letters, digits, underscores, dots and hyphens"),
            ("# x\nA=\"x\n\n", "line 2: the quote that begins here is not closed"),
            ("A='x' y", "line 1: there is something behind the closing quote"),
            ("A=\0", "line 1: a value cannot have a NUL character"),
        ] {
            assert_eq!(understand(text.as_bytes()), Err(problem.to_owned()), "{text:?}");
        }
        assert!(understand(&[0xff]).unwrap_err().contains("UTF-8"));
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused_with_a_line(text in "[A-Za-z0-9='\"# \\\\\n\r\t$]{0,60}") {
            if let Err(problem) = understand(text.as_bytes()) {
                prop_assert!(problem.starts_with("line "), "{problem}");
            }
        }

        #[test]
        fn what_is_in_single_quotes_is_taken_as_it_is(value in "[^'\0]{0,40}") {
            let understood = understand(format!("A='{value}'\n").as_bytes());
            prop_assert_eq!(understood, Ok(vec![("A".to_owned(), value)]));
        }
    }
}
