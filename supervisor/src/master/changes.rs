//! How a new generation differs from the one before.

use std::collections::BTreeSet;

use crate::protocol::{Change, MAX_CHANGES};
use crate::settings::Part;

/// How the parts of one generation differ from those of the one before: up to [`MAX_CHANGES`], and then how many more.
pub(super) fn between(old: &[Part], new: &[Part]) -> Vec<Change> {
    let mut changes = all_between(old, new);
    if changes.len() > MAX_CHANGES {
        let more = changes.len() - MAX_CHANGES;
        changes.truncate(MAX_CHANGES);
        changes.push(Change { name: format!("and {more} more"), from: None, to: None });
    }
    changes
}

fn all_between(old: &[Part], new: &[Part]) -> Vec<Change> {
    let find = |parts: &[Part], name: &str| parts.iter().find(|part| part.name == name).cloned();
    let mut seen = BTreeSet::new();
    let names = new.iter().chain(old).map(|part| part.name.as_str()).filter(|name| seen.insert(*name));
    names
        .filter_map(|name| match (find(old, name), find(new, name)) {
            (old, new) if old == new => None,
            // Neither value may be shown.
            (Some(old), Some(new)) if old.secret || new.secret => Some((name, None, None)),
            (old, new) => Some((name, old.map(shown), new.map(shown))),
        })
        .map(|(name, from, to)| Change { name: name.to_owned(), from, to })
        .collect()
}

fn shown(part: Part) -> String {
    if part.secret { "set".into() } else { part.value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, value: &str, secret: bool) -> Part {
        Part { name: name.into(), value: value.into(), secret }
    }

    fn change(name: &str, from: Option<&str>, to: Option<&str>) -> Change {
        Change { name: name.into(), from: from.map(Into::into), to: to.map(Into::into) }
    }

    #[test]
    fn what_is_new_different_or_gone_is_a_change_and_secrets_are_not_shown() {
        let old =
            [part("grace", "5", false), part("same", "x", false), part("gone", "x", false), part("KEY", "a", true)];
        let new =
            [part("KEY", "b", true), part("grace", "30", false), part("same", "x", false), part("NEW", "b", true)];
        assert_eq!(
            between(&old, &new),
            [
                change("KEY", None, None),
                change("grace", Some("5"), Some("30")),
                change("NEW", None, Some("set")),
                change("gone", Some("x"), None),
            ]
        );
    }

    #[test]
    fn of_very_many_changes_the_rest_is_counted() {
        let parts = |count: usize| (0..count).map(|at| part(&format!("KEY{at}"), "x", true)).collect::<Vec<_>>();
        let named = |count: usize| (0..count).map(|at| change(&format!("KEY{at}"), None, Some("set")));
        assert_eq!(between(&[], &parts(MAX_CHANGES)), named(MAX_CHANGES).collect::<Vec<_>>());
        let rest = change("and 3 more", None, None);
        assert_eq!(between(&[], &parts(MAX_CHANGES + 3)), named(MAX_CHANGES).chain([rest]).collect::<Vec<_>>());
    }
}
