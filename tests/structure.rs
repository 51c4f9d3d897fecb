//! The code has the shape that docs/ARCHITECTURE.md says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Crate → level, from the table.
fn levels() -> BTreeMap<String, u32> {
    read("docs/ARCHITECTURE.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?.parse().ok()?, cells.next()?.to_string()))
        })
        .map(|(level, name)| (name, level))
        .collect()
}

/// Names under `[dependencies]`.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest: toml::Table = toml::from_str(&read(&format!("crates/{name}/Cargo.toml"))).expect("a manifest");
    manifest["dependencies"].as_table().expect("a table").keys().cloned().collect()
}

/// The arrows that the table does not allow.
fn forbidden(levels: &BTreeMap<String, u32>, name: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let own = levels[name];
    let ours = dependencies.iter().filter_map(|d| d.strip_prefix("custody-"));
    ours.filter(|d| levels.get(*d).is_none_or(|level| *level >= own)).map(|d| format!("{name} -> {d}")).collect()
}

#[test]
fn arrows_point_downwards() {
    let levels = levels();
    let folders: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(levels.keys().cloned().collect::<BTreeSet<_>>(), folders, "the table names every crate");
    for name in &folders {
        assert_eq!(forbidden(&levels, name, &dependencies(name)), Vec::<String>::new());
    }
    let added = BTreeSet::from(["custody-ledger".to_string(), "custody-engine".to_string()]);
    assert_eq!(forbidden(&levels, "policy", &added), ["policy -> engine", "policy -> ledger"]);
}

#[test]
fn brains_are_pure() {
    for name in ["dialect", "lineage", "policy", "ledger", "catalog"] {
        let found: Vec<_> =
            ["tokio", "object_store", "rustix"].into_iter().filter(|d| dependencies(name).contains(*d)).collect();
        assert!(found.is_empty(), "{name} depends on {found:?}");
    }
}

/// The Rust files of a crate, tests aside.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let parts = entries.map(|path| match path.is_dir() {
        true if path.ends_with("tests") => vec![],
        true => sources(&path),
        false if path.ends_with("tests.rs") || path.extension().is_none_or(|e| e != "rs") => vec![],
        false => vec![path],
    });
    parts.flatten().collect()
}

/// The codes that a text defines: the first argument of a `Problem`, an arm of a match, a constant.
fn codes_in(text: &str) -> BTreeSet<u16> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let starts = ["Problem::new(", "Problem::new( ", "Self::new(", "Self::new( ", "=> ", "=> (", "=> { (", "u16 = "];
    let digits = |at: usize| words.get(at..at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let after = |at: usize| words.as_bytes().get(at + 4).is_some_and(|b| b",; ".contains(b));
    let found = starts.iter().flat_map(|start| words.match_indices(start).map(|(at, _)| at + start.len()));
    found.filter(|at| after(*at)).filter_map(|at| digits(at)?.parse().ok()).collect()
}

/// Crate → the codes in its sources.
fn codes() -> BTreeMap<String, BTreeSet<u16>> {
    let of = |name: &str| {
        let files = sources(&root().join("crates").join(name).join("src"));
        files.iter().flat_map(|f| codes_in(&fs::read_to_string(f).expect("a source"))).collect()
    };
    levels().into_keys().map(|name| (name.clone(), of(&name))).collect()
}

/// What is wrong with these codes, by the page.
fn wrong_codes(codes: &BTreeMap<String, BTreeSet<u16>>, page: &str) -> Vec<String> {
    let cells = |l: &str| l.strip_prefix("| ").map(|l| l.split('|').map(|c| c.trim().to_string()).collect::<Vec<_>>());
    let rows: Vec<_> = page.lines().filter_map(cells).collect();
    let listed: Vec<u16> = rows.iter().filter_map(|r| r[0].strip_prefix('C')?.parse().ok()).collect();
    let ranges = |name: &str| rows.iter().find(|r| r[0] == name).map(|r| r[1].clone()).unwrap_or_default();
    let mut wrong = vec![];
    let mut seen = BTreeMap::new();
    for (name, codes) in codes {
        let ranges = ranges(name);
        for code in codes {
            if !ranges.split(' ').any(|r| r == format!("C{}", code / 100)) {
                wrong.push(format!("C{code} is outside the ranges of {name}"));
            }
            if !listed.contains(code) {
                wrong.push(format!("C{code} of {name} is not listed"));
            }
            if let Some(other) = seen.insert(*code, name) {
                wrong.push(format!("C{code} is of {other} and of {name}"));
            }
        }
    }
    for (i, code) in listed.iter().enumerate() {
        if !seen.contains_key(code) {
            wrong.push(format!("C{code} is listed and no source has it"));
        }
        if listed[..i].contains(code) {
            wrong.push(format!("C{code} is listed twice"));
        }
    }
    wrong
}

#[test]
fn every_code_has_one_crate_and_one_line() {
    let page = read("docs/errors.md");
    let codes = codes();
    assert_eq!(wrong_codes(&codes, &page), Vec::<String>::new());

    let mut more = codes;
    let text = "const A: u16 = 1001;\n match x { A => 9999, B => (4007, \"\") }";
    more.get_mut("flight").expect("the crate").append(&mut codes_in(text));
    let expected = [
        "C1001 is outside the ranges of flight",
        "C1001 is of dialect and of flight",
        "C4007 is outside the ranges of flight",
        "C4007 of flight is not listed",
        "C9999 is outside the ranges of flight",
        "C9999 of flight is not listed",
    ];
    assert_eq!(wrong_codes(&more, &page), expected);
    assert_eq!(wrong_codes(&BTreeMap::new(), "| C1001 | x |\n| C1001 | x |").len(), 3);
}

/// The pages at the top and below `docs`.
fn pages() -> Vec<PathBuf> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|e| e == "md");
    let of = |folder: &str| fs::read_dir(root().join(folder)).expect("a folder").map(|e| e.expect("an entry").path());
    [".", "docs", "docs/adr"].into_iter().flat_map(of).filter(is_page).collect()
}

#[test]
fn links_of_pages_lead_somewhere() {
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|l| !l.contains("://") && !l.starts_with('#')) {
            let path = link.split('#').next().unwrap_or_default();
            assert!(page.parent().expect("a folder").join(path).exists(), "{}: {link}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links");
}

#[test]
fn every_crate_forbids_unsafe_code() {
    for name in levels().keys() {
        let file = if name == "cli" { "main.rs" } else { "lib.rs" };
        let text = read(&format!("crates/{name}/src/{file}"));
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
    }
}

#[test]
fn one_copy_of_each_foundation() {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).expect("a lock file");
    let packages = lock["package"].as_array().expect("packages");
    for name in ["arrow", "arrow-array", "parquet", "datafusion", "datafusion-common", "object_store", "tonic"] {
        let copies = packages.iter().filter(|p| p["name"].as_str() == Some(name)).count();
        assert_eq!(copies, 1, "{name}");
    }
}
