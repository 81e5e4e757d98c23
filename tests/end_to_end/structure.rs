//! How the sources depend on each other: which file knows of which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The crates that are checked.
const CRATES: [&str; 3] = ["admin-cli", "supervisor", "worker"];

/// A handler is called with a connection, which has its handler: the file of that trait, and the file built on it that
/// it may name.
const SEAM: (&str, &str, &str) = ("worker", "handler", "connection");

/// The path of a module, without the crate.
type Module = Vec<String>;

/// The files of a crate, by their modules.
struct Sources {
    files: BTreeMap<Module, syn::File>,
}

/// What a file names in its own crate.
struct Names<'a> {
    sources: &'a Sources,
    /// The module of the file, and the modules in it that are being visited.
    module: Module,
    file: &'a Module,
    /// Tests may know of everything.
    with_tests: bool,
    files: BTreeSet<Module>,
    /// What is named straight from the root of the crate.
    from_root: Vec<String>,
}

impl Sources {
    fn of(name: &str) -> Sources {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
        let mut files = BTreeMap::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    files.insert(module_of(&path, &root), file);
                }
            }
        }
        assert!(files.len() > 5, "{} has no sources", root.display());
        Sources { files }
    }

    fn names<'a>(&'a self, file: &'a Module, with_tests: bool) -> Names<'a> {
        let module = file.clone();
        let mut names =
            Names { sources: self, module, file, with_tests, files: BTreeSet::new(), from_root: Vec::new() };
        names.visit_file(&self.files[file]);
        names
    }

    /// The file that contains what a path names: that of the module which is the longest part of it.
    fn file_of(&self, path: &[String]) -> Option<&Module> {
        (0..=path.len()).rev().find_map(|length| self.files.get_key_value(&path[..length])).map(|(module, _)| module)
    }
}

fn module_of(path: &Path, root: &Path) -> Module {
    let relative: PathBuf = path.strip_prefix(root).unwrap().with_extension("");
    let parts = relative.components().map(|part| part.as_os_str().to_str().unwrap().to_owned());
    parts.filter(|part| part != "lib" && part != "main").collect()
}

impl Names<'_> {
    fn name(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        let whole: Module = match first.as_str() {
            "crate" => path[1..].to_vec(),
            "self" => self.module.iter().chain(&path[1..]).cloned().collect(),
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                let above = &self.module[..self.module.len().saturating_sub(up)];
                above.iter().chain(&path[up..]).cloned().collect()
            }
            // A module in this one, or else something from another crate.
            _ => self.module.iter().chain(path).cloned().collect(),
        };
        let Some(file) = self.sources.file_of(&whole) else { return };
        if file != self.file {
            if file.is_empty() {
                self.from_root.push(path.join("::"));
            }
            self.files.insert(file.clone());
        }
    }

    fn tree(&mut self, before: &mut Module, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(before, &path.tree);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
            syn::UseTree::Name(name) => self.leaf(before, name.ident.to_string()),
            syn::UseTree::Rename(rename) => self.leaf(before, rename.ident.to_string()),
            syn::UseTree::Glob(_) => self.leaf(before, "*".into()),
        }
    }

    fn leaf(&mut self, before: &[String], name: String) {
        let mut path = before.to_vec();
        path.extend((name != "self").then_some(name));
        self.name(&path);
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() && (self.with_tests || !is_for_tests(&item.attrs)) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    /// A visibility says who may name something, and names nothing itself.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            let parts: Module = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.name(&parts);
        }
        visit::visit_path(self, path);
    }
}

/// `#[cfg(test)]`, alone or among other conditions.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let condition = attribute.meta.require_list().unwrap().tokens.to_string();
        condition.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "test")
    })
}

/// Conditions that only a compiler newer than worker's oldest one accepts: `let` beside `&&`, and in the guard of an
/// arm. The lints know since when std has had something, but nothing about the language.
#[derive(Default)]
struct NewConditions(usize);

impl<'ast> Visit<'ast> for NewConditions {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        let is_let = |side: &syn::Expr| matches!(side, syn::Expr::Let(_));
        self.0 += usize::from(is_let(&binary.left) || is_let(&binary.right));
        visit::visit_expr_binary(self, binary);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.0 += usize::from(matches!(&arm.guard, Some((_, guard)) if matches!(**guard, syn::Expr::Let(_))));
        visit::visit_arm(self, arm);
    }
}

#[test]
fn worker_has_no_condition_that_its_oldest_compiler_does_not_take() {
    let sources = Sources::of("worker");
    let mut found = Vec::new();
    for (file, tree) in sources.files.iter().filter(|(file, _)| !file.iter().any(|part| part == "tests")) {
        let mut conditions = NewConditions::default();
        conditions.visit_file(tree);
        if conditions.0 > 0 {
            found.push(format!("worker/src/{}.rs: {}", file.join("/"), conditions.0));
        }
    }
    assert!(found.is_empty(), "Rust 1.85 takes no `let` beside `&&` and none in a guard:\n{}", found.join("\n"));
}

#[test]
fn no_file_imports_from_the_root_of_its_own_crate() {
    let mut found = Vec::new();
    for name in CRATES {
        let sources = Sources::of(name);
        for file in sources.files.keys().filter(|file| !file.is_empty()) {
            for import in sources.names(file, true).from_root {
                found.push(format!("{name}/src/{}.rs: {import}", file.join("/")));
            }
        }
    }
    assert!(found.is_empty(), "say the module that it stands in:\n{}", found.join("\n"));
}

#[test]
fn files_know_of_each_other_in_one_direction() {
    let mut found = Vec::new();
    for name in CRATES {
        let sources = Sources::of(name);
        let is_test = |file: &&Module| file.iter().any(|part| part == "tests");
        let known: BTreeMap<&Module, BTreeSet<Module>> = sources
            .files
            .keys()
            .filter(|file| !is_test(file))
            .map(|file| (file, sources.names(file, false).files))
            .map(|(file, mut names)| {
                names.retain(|other| (name, file.join("/").as_str(), other.join("/").as_str()) != SEAM);
                (file, names)
            })
            .collect();
        for circle in circles(&known) {
            let circle: Vec<_> = circle.iter().map(|file| file.join("/")).collect();
            found.push(format!("{name}: {}", circle.join(", ")));
        }
    }
    assert!(found.is_empty(), "these know of each other, directly or by way of others:\n{}", found.join("\n"));
}

/// The files that can be reached from each other, one list for each cycle.
fn circles<'a>(known: &BTreeMap<&'a Module, BTreeSet<Module>>) -> Vec<Vec<&'a Module>> {
    let reached: BTreeMap<&Module, _> = known.keys().map(|&file| (file, reach(known, file))).collect();
    let mut found: Vec<Vec<&Module>> = Vec::new();
    for &file in known.keys().filter(|file| reached[**file].contains(**file)) {
        if !found.iter().any(|circle| circle.contains(&file)) {
            let both = |other: &&&Module| reached[file].contains(**other) && reached[**other].contains(file);
            found.push(known.keys().filter(both).copied().collect());
        }
    }
    found
}

fn reach<'a>(known: &'a BTreeMap<&Module, BTreeSet<Module>>, from: &'a Module) -> BTreeSet<&'a Module> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        next.extend(known.get(file).into_iter().flatten().filter(|file| reached.insert(*file)));
    }
    reached
}
