//! Replays every committed fuzzing corpus with the body of its fuzz target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use postern_wire::fuzz;

/// A directory under `fuzz/corpus/`, and the body that reads its files.
type Target = (&'static str, fn(&[u8]));

/// Every parser that reads bytes from the network has a line here, a file in
/// `fuzz/fuzz_targets/`, a section in `fuzz/Cargo.toml` and a directory in
/// `fuzz/corpus/`.
const TARGETS: &[Target] = &[
    ("stun", fuzz::stun),
    ("signal", fuzz::signal),
    ("transfer", fuzz::transfer),
    ("turn", fuzz::turn),
    ("mdns", fuzz::mdns),
    ("natpmp", fuzz::natpmp),
    ("ndp", fuzz::ndp),
    ("pcp", fuzz::pcp),
    ("probe", fuzz::probe),
    ("upnp", fuzz::upnp),
    ("uri", fuzz::uri),
];

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let listing =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = listing
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    paths.sort();
    paths
}

fn stems(paths: &[PathBuf]) -> BTreeSet<String> {
    let stem = |path: &PathBuf| {
        path.file_stem()
            .expect("a file name")
            .to_string_lossy()
            .into_owned()
    };
    paths.iter().map(stem).collect()
}

/// Those of `postern-proto` have a test there.
fn stems_of_parsers(paths: &[PathBuf]) -> BTreeSet<String> {
    let mut names = stems(paths);
    names.retain(|name| !name.starts_with("machine_"));
    names
}

fn target_names() -> BTreeSet<String> {
    TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn every_file_of_every_corpus_is_survived() {
    for (name, body) in TARGETS {
        let files = entries(&fuzz_directory().join("corpus").join(name));
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for file in files {
            println!("{}", file.display());
            body(&fs::read(file).unwrap());
        }
    }
}

#[test]
fn every_corpus_has_a_body() {
    let corpora = stems_of_parsers(&entries(&fuzz_directory().join("corpus")));
    assert_eq!(corpora, target_names());
}

#[test]
fn every_body_has_a_fuzz_target() {
    let targets = stems_of_parsers(&entries(&fuzz_directory().join("fuzz_targets")));
    assert_eq!(targets, target_names());
}

#[test]
fn every_fuzz_target_is_built() {
    let manifest = fs::read_to_string(fuzz_directory().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        assert!(
            manifest.contains(&path),
            "no target {name} in fuzz/Cargo.toml"
        );
    }
}
