//! The page that lists a directory.

use std::ffi::OsStr;
use std::fmt;
use std::io;

use cap_std::fs::ReadDir;

use super::target::escape;

/// What is listed of a file.
struct Item {
    /// As it is shown: anything that is not UTF-8 is replaced.
    name: String,
    /// As it is linked, percent-encoded.
    link: String,
    /// What follows the name: a slash for directories, an `@` for symbolic links.
    mark: &'static str,
}

/// Lists a directory sorted by name, ignoring case. `path` is its path below the served directory.
///
/// # Errors
/// When the directory cannot be read to its end.
pub(super) fn page(directory: ReadDir, path: &[u8]) -> io::Result<String> {
    let items = directory.map(|entry| Item::of(&entry?));
    let is_deleted = |item: &io::Result<Item>| matches!(item, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut items = items.filter(|item| !is_deleted(item)).collect::<io::Result<Vec<_>>>()?;
    items.sort_by_cached_key(|item| (item.name.to_lowercase(), item.name.clone()));
    let mut title = format!("/{}", String::from_utf8_lossy(path));
    if !path.is_empty() {
        title.push('/');
    }
    let title = Escaped(&title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n<title>Files in {title}</title>\n</head>\n<body>\n\
         <h1>Files in {title}</h1>\n<ul>\n"
    );
    for Item { name, link, mark } in items {
        let slash = if mark == "/" { mark } else { "" };
        page += &format!("<li><a href=\"{link}{slash}\">{}{mark}</a></li>\n", Escaped(&name));
    }
    page += "</ul>\n</body>\n</html>\n";
    Ok(page)
}

impl Item {
    fn of(entry: &cap_std::fs::DirEntry) -> io::Result<Item> {
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let mark = match () {
            () if kind.is_dir() => "/",
            () if kind.is_symlink() => "@",
            () => "",
        };
        Ok(Item { link: escape(&bytes_of(&name)).collect(), name: name.to_string_lossy().into_owned(), mark })
    }
}

#[cfg(unix)]
fn bytes_of(name: &OsStr) -> std::borrow::Cow<'_, [u8]> {
    use std::os::unix::ffi::OsStrExt;
    name.as_bytes().into()
}

#[cfg(not(unix))]
fn bytes_of(name: &OsStr) -> std::borrow::Cow<'_, [u8]> {
    name.to_string_lossy().into_owned().into_bytes().into()
}

/// Text in HTML, also between double quotes.
struct Escaped<'text>(&'text str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            formatter.write_str(&rest[..at])?;
            formatter.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#x27;",
            })?;
            rest = &rest[at + 1..];
        }
        formatter.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escaped_text_has_no_markup_and_loses_nothing(text in "(\\PC|[&<>\"'])*") {
            let escaped = Escaped(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let back = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#x27;", "'");
            prop_assert_eq!(back.replace("&amp;", "&"), text);
        }
    }
}
