//! The files of every crate form a hierarchy: none imports, directly or through others, a file that imports
//! it. Read from the text of the sources, without test modules. A name that a file only hands on
//! (`pub use child::Name`, for the crate alone too) counts as an import of the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's path below the crate, such as `["data", "loader"]`; the crate's root is empty.
type Module = Vec<String>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folders `src` of all crates.
fn sources() -> Vec<PathBuf> {
    let root = workspace();
    let mut all: Vec<PathBuf> = ["core", "ops", "datasets", "runner", "testing"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    for group in ["backbones", "methods", "examples"] {
        let folders = std::fs::read_dir(root.join(group)).unwrap();
        all.extend(folders.map(|folder| folder.unwrap().path()));
    }
    all.retain(|folder| folder.join("src/lib.rs").is_file());
    all.iter().map(|folder| folder.join("src")).collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The module that a file holds; none for `main.rs` and for files of tests.
fn module(file: &Path, src: &Path) -> Option<Module> {
    let below = file.strip_prefix(src).unwrap().with_extension("");
    let mut parts: Module = below
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    match parts.last().map(String::as_str) {
        Some("mod" | "lib") => {
            parts.pop();
        }
        Some("main") => return None,
        _ => {}
    }
    (!parts.iter().any(|part| part == "tests")).then_some(parts)
}

/// The source without comments and without what only tests see.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let tests = text.find("\nmod tests").unwrap_or(text.len());
    let lines = text[..tests].lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path that begins with one of `starts`, the trees of `use` declarations written out.
fn paths(code: &str, starts: &BTreeSet<String>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    for (place, _) in code.match_indices("::") {
        let start = code[..place].rfind(|c| !word(c)).map_or(0, |i| i + 1);
        let before = code[..start].chars().next_back();
        if starts.contains(&code[start..place]) && before != Some(':') && before != Some('$') {
            tree(&code[start..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path or tree of paths, `a::{b, c::d}`, and returns what follows it.
fn tree<'a>(text: &'a str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = tree(rest, &mut prefix.clone(), found).trim_start();
            match rest.strip_prefix(',') {
                Some(next) if !next.trim_start().starts_with('}') => rest = next,
                Some(next) => return next.trim_start().trim_start_matches('}'),
                None => return rest.trim_start_matches('}'),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    if name.is_empty() {
        found.push(prefix.clone());
        return rest.trim_start_matches('*');
    }
    prefix.push(name.to_owned());
    match rest.strip_prefix("::") {
        Some(rest) => tree(rest, prefix, found),
        None => {
            found.push(prefix.clone());
            let alias = rest.trim_start().strip_prefix("as ");
            alias.map_or(rest, |rest| {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                &rest[end.unwrap_or(rest.len())..]
            })
        }
    }
}

/// What follows each `pub use`, `pub(crate) use` and `pub(super) use`.
fn handed_on_by(code: &str) -> impl Iterator<Item = &str> {
    let starts = ["pub use ", "pub(crate) use ", "pub(super) use "];
    let declarations = starts.into_iter().map(|start| code.split(start).skip(1));
    declarations.flatten()
}

/// The sources of a crate by module, and what they hand on.
struct Crate {
    code: BTreeMap<Module, String>,
    /// By module and name, the path of what it names.
    handed_on: BTreeMap<(Module, String), Vec<String>>,
}

impl Crate {
    fn new(code: BTreeMap<Module, String>) -> Self {
        let mut all = Self {
            code,
            handed_on: BTreeMap::new(),
        };
        let mut handed_on = BTreeMap::new();
        for (module, code) in &all.code {
            for declaration in handed_on_by(code) {
                let declaration = declaration.split(';').next().unwrap();
                for path in paths(declaration, &all.starts(module)) {
                    let name = path.last().unwrap().clone();
                    handed_on.insert((module.clone(), name), path);
                }
            }
        }
        all.handed_on = handed_on;
        all
    }

    /// The first parts of paths that lead into the crate.
    fn starts(&self, own: &Module) -> BTreeSet<String> {
        let children = self.code.keys();
        let children = children
            .filter(|module| module.len() == own.len() + 1 && module.starts_with(own))
            .map(|module| module[own.len()].clone());
        children
            .chain(["crate", "super", "self"].map(str::to_owned))
            .collect()
    }

    /// The module that defines what a path in `own` names.
    fn defined_in(&self, own: &Module, path: &[String]) -> Module {
        let mut module = if path[0] == "crate" {
            Vec::new()
        } else {
            own.clone()
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => {
                    module.pop();
                }
                name => {
                    module.push(name.to_owned());
                    // The last parts name items of the module.
                    if !self.code.contains_key(&module) {
                        module.pop();
                        let handed_on = self.handed_on.get(&(module.clone(), name.to_owned()));
                        return match handed_on {
                            Some(path) => self.defined_in(&module, path),
                            None => module,
                        };
                    }
                }
            }
        }
        module
    }

    /// The modules that a module names.
    fn imports(&self, own: &Module) -> BTreeSet<Module> {
        let paths = paths(&self.code[own], &self.starts(own)).into_iter();
        let modules = paths.map(|path| self.defined_in(own, &path));
        modules.filter(|module| module != own).collect()
    }
}

/// A circle through `start`, if there is one.
fn circle(start: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start.clone()]];
    while let Some(way) = ways.pop() {
        for next in &imports[way.last().unwrap()] {
            if next == start {
                return Some(way);
            }
            if seen.insert(next.clone()) {
                let mut longer = way.clone();
                longer.push(next.clone());
                ways.push(longer);
            }
        }
    }
    None
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let mut circles = Vec::new();
    let mut arrows = 0;
    for src in sources() {
        let mut files = Vec::new();
        rust_files(&src, &mut files);
        let code = files
            .iter()
            .filter_map(|file| Some((module(file, &src)?, code(file))));
        let all = Crate::new(code.collect());
        let imports: BTreeMap<Module, BTreeSet<Module>> = all
            .code
            .keys()
            .map(|module| (module.clone(), all.imports(module)))
            .collect();
        arrows += imports.values().map(BTreeSet::len).sum::<usize>();
        for module in all.code.keys() {
            if let Some(way) = circle(module, &imports) {
                let names: Vec<String> = way.iter().map(|module| module.join("::")).collect();
                circles.push(format!("{}: {}", src.display(), names.join(" -> ")));
            }
        }
    }
    assert!(arrows > 500, "only {arrows} imports were found");
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found_and_a_name_that_is_handed_on_is_not_one() {
    let module = |name: &str| -> Module {
        let parts = name.split("::").filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    };
    let code = [
        ("", "mod a; mod b; pub use a::{Thing, Part as Other};"),
        ("a", "use crate::{x, b::{inner::Deep, other::Part as _}};"),
        ("b", "fn f() -> super::Thing {} pub use inner::Deep;"),
        ("b::inner", "use crate::b::Deep; struct Deep;"),
    ];
    let code = code.map(|(name, code)| (module(name), code.to_owned()));
    let all = Crate::new(code.into());
    let imports: BTreeMap<Module, BTreeSet<Module>> = all
        .code
        .keys()
        .map(|module| (module.clone(), all.imports(module)))
        .collect();
    let of = |name: &str| imports[&module(name)].clone();
    assert_eq!(
        of("a"),
        BTreeSet::from([module(""), module("b"), module("b::inner")])
    );
    assert_eq!(of("b"), BTreeSet::from([module("a"), module("b::inner")]));
    assert_eq!(of("b::inner"), BTreeSet::new());
    assert_eq!(circle(&module("a"), &imports).unwrap().len(), 2);
    assert!(circle(&module("b::inner"), &imports).is_none());
}
