//! Inputs of the parsers that are kept, one per file in `corpus`, and others that are similar. An input found by a
//! property test goes there, under a name that says what is odd about it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The kept inputs of a parser, with the names of their files.
pub(crate) fn kept(parser: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(parser);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut kept: Vec<_> = files
        .map(|file| {
            let file = file.unwrap();
            (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())
        })
        .collect();
    kept.sort();
    kept
}

/// Inputs that are similar to the kept ones.
pub(crate) fn nearly(parser: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let kept: Vec<Vec<u8>> = kept(parser).into_iter().map(|(_, input)| input).collect();
    let change = change(kept.clone());
    (select(kept), vec(change, 1..5)).prop_map(|(input, changes)| changes.iter().fold(input, Change::apply))
}

#[derive(Debug, Clone)]
enum Change {
    /// Other bytes in place of some.
    Replace(Index, Vec<u8>),
    /// More bytes.
    Insert(Index, Vec<u8>),
    /// Some bytes fewer.
    Remove(Index, usize),
    /// Some bytes twice.
    Repeat(Index, usize),
    /// Nothing from here on.
    CutOff(Index),
    /// From here on, the end of another input.
    Continue(Index, Vec<u8>, Index),
}

fn change(kept: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    // Bytes that mean something to a parser, and others.
    let byte = || prop_oneof![select(&b"{}[]\",:=\\\n\r\t 0159-+.eEnu\0\x7f\x80\xff"[..]), any::<u8>()];
    let bytes = move || vec(byte(), 1..4);
    prop_oneof![
        (any::<Index>(), bytes()).prop_map(|(at, bytes)| Change::Replace(at, bytes)),
        (any::<Index>(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), 1..20_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        any::<Index>().prop_map(Change::CutOff),
        (any::<Index>(), select(kept), any::<Index>()).prop_map(|(at, other, from)| Change::Continue(at, other, from)),
    ]
}

impl Change {
    fn apply(mut input: Vec<u8>, change: &Change) -> Vec<u8> {
        // The end is a valid place, too.
        let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
        match change {
            Change::Replace(at, bytes) => {
                let from = place(at, &input);
                let to = input.len().min(from + bytes.len());
                input.splice(from..to, bytes.iter().copied());
            }
            Change::Insert(at, bytes) => {
                let at = place(at, &input);
                input.splice(at..at, bytes.iter().copied());
            }
            Change::Remove(at, length) => {
                let from = place(at, &input);
                let to = input.len().min(from + length);
                input.drain(from..to);
            }
            Change::Repeat(at, length) => {
                let from = place(at, &input);
                let again = input[from..input.len().min(from + length)].to_vec();
                input.splice(from..from, again);
            }
            Change::CutOff(at) => input.truncate(place(at, &input)),
            Change::Continue(at, other, from) => {
                input.truncate(place(at, &input));
                input.extend_from_slice(&other[place(from, other)..]);
            }
        }
        input
    }
}
