//! The cache keeps what it should, and changes no answer. Only on Unix is anything kept.

use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::cache::CAPACITY;
use super::super::small_file::SMALL;
use super::*;

/// A time in the distant future: everything that has been written counts as settled.
fn later(seconds: u64) -> Now {
    Now(Duration::from_secs(10_000_000_000 + seconds))
}

fn find(files: &Files, target: &str, now: Now) -> Result<Found, Status> {
    files.find(&Target::parse(target).unwrap(), now)
}

/// The file that was found, if that is a small one.
fn small(files: &Files, target: &str, now: Now) -> Option<Arc<SmallFile>> {
    match find(files, target, now) {
        Ok(Found::Small(file)) => Some(file),
        _ => None,
    }
}

/// Whether two requests within a second are answered with what was read once.
fn is_kept(files: &Files, target: &str, now: Now) -> bool {
    Arc::ptr_eq(&small(files, target, now).unwrap(), &small(files, target, now).unwrap())
}

/// The content that a client would get.
fn seen(files: &Files, target: &str, now: Now) -> String {
    match find(files, target, now) {
        Ok(Found::Small(file)) => String::from_utf8(file.content().to_vec()).unwrap(),
        Ok(Found::Large(..)) => "a large file".to_owned(),
        Ok(Found::Directory(_)) => "a directory".to_owned(),
        Ok(Found::SlashMissing) => "a redirect".to_owned(),
        Err(status) => status.name().to_owned(),
    }
}

#[test]
fn a_file_is_read_once_a_second() {
    let directory =
        Directory::new().file("a", "x").file("b/c/d", "x").file("index.html", "x").file("e f/index.html", "");
    let files = Files::new(&directory.public()).unwrap();
    for target in ["/a", "/b/c/d", "/", "/e%20f/"] {
        assert!(is_kept(&files, target, later(0)), "{target}");
    }
    // In whatever form it is requested.
    let kept = |target| small(&files, target, later(0)).unwrap();
    for same in ["/a?b", "//a", "/%61", "http://host/a", "/b/../a"] {
        assert!(Arc::ptr_eq(&kept(same), &kept("/a")), "{same}");
    }
    // The answer carries a date.
    assert!(!Arc::ptr_eq(&small(&files, "/a", later(1)).unwrap(), &small(&files, "/a", later(2)).unwrap()));
}

#[test]
fn a_plain_request_is_answered_as_it_would_be_without_the_cache() {
    let directory = Directory::new().file("a.html", "hello");
    let public = directory.public();
    let (http, files) = (Http::new(&public).unwrap(), Files::new(&public).unwrap());
    let ask = |request: &str, files: &Files| {
        let mut fields: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let head = Head::parse(request.as_bytes(), &mut fields).unwrap().unwrap();
        let terms = Terms { now: later(0), after: SmallFile::AFTER, head_only: head.method == Method::Head };
        let answer = answer_from(files, &Target::parse(head.target).unwrap(), &head, terms).unwrap();
        String::from_utf8(answer.bytes().to_vec()).unwrap()
    };
    let Source::Files(without) = &http.source else { panic!("it serves files") };
    for fields in ["", "If-None-Match: \"x\"\r\n", "Range: bytes=1-\r\n", "If-Match: *\r\n"] {
        for method in ["GET", "HEAD"] {
            let request = format!("{method} /a.html HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let first = ask(&request, without);
            assert_eq!(first, ask(&request, &files), "{request}");
            assert_eq!(first, ask(&request, &files), "{request}");
        }
    }
}

#[test]
fn a_file_that_has_just_been_written_is_not_kept() {
    let directory = Directory::new().file("a", "x");
    let files = Files::new(&directory.public()).unwrap();
    let changed = fs::metadata(directory.public().join("a")).unwrap().ctime().cast_unsigned();
    // Before that: the clock has been set back.
    for (second, kept) in [(changed - 9, false), (changed, false), (changed + 2, false), (changed + 4, true)] {
        assert_eq!(is_kept(&files, "/a", Now(Duration::from_secs(second))), kept, "{second}, changed {changed}");
    }
}

#[test]
fn a_file_behind_a_symlink_is_not_kept() {
    let directory = Directory::new().file("a/b", "x").link("a/b", "file").link("a", "directory");
    let files = Files::new(&directory.public()).unwrap();
    for target in ["/file", "/directory/b"] {
        assert_eq!(seen(&files, target, later(0)), "x");
        assert!(!is_kept(&files, target, later(0)), "{target}");
    }
    // The served directory itself may be a link.
    let link = directory.0.join("link");
    symlink("public", &link).unwrap();
    assert!(is_kept(&Files::new(&link).unwrap(), "/a/b", later(0)));
}

#[test]
fn an_index_counts_only_as_long_as_no_other_comes_before_it() {
    let directory = Directory::new().file("index.htm", "second");
    let files = Files::new(&directory.public()).unwrap();
    let now = later(0);
    assert_eq!(seen(&files, "/", now), "second");
    fs::write(directory.public().join("index.html"), "first").unwrap();
    assert_eq!(seen(&files, "/", now), "first");
    fs::remove_file(directory.public().join("index.html")).unwrap();
    assert_eq!(seen(&files, "/", now), "second");
}

#[test]
fn the_cache_has_a_limit() {
    let content = vec![b'x'; SMALL as usize];
    let mut directory = Directory::new();
    let count = 2 * CAPACITY / content.len();
    for number in 0..count {
        directory = directory.file(&number.to_string(), &content);
    }
    let files = Files::new(&directory.public()).unwrap();
    let held: Vec<_> = (0..count).filter_map(|number| small(&files, &format!("/{number}"), later(0))).collect();
    let kept: usize = held.iter().filter(|file| Arc::strong_count(file) > 1).map(|file| file.answer().len()).sum();
    assert_eq!(held.len(), count);
    assert!(kept <= CAPACITY && kept > CAPACITY / 2, "{kept}");
    // In the next second there is room again.
    let file = small(&files, "/0", later(1)).unwrap();
    assert!(Arc::strong_count(&file) > 1);
    assert!(held.iter().all(|file| Arc::strong_count(file) == 1));
}

/// Waits until the file system's clock has advanced, which happens long before a file is kept.
fn wait_for_another_time(base: &Path) {
    let probe = base.join("probe");
    let time = || {
        fs::write(&probe, "x").unwrap();
        let written = fs::metadata(&probe).unwrap();
        (written.ctime(), written.ctime_nsec())
    };
    let before = time();
    while time() <= before {
        std::thread::yield_now();
    }
}

/// The modification time that every file has, so that it shows no change.
const TIME: std::time::SystemTime = std::time::UNIX_EPOCH;

/// A change of the files `a` and `b/a`, the directory `b` and the served one.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// Writes other content of the same length, and keeps the modification time.
    Write(&'static str, &'static str),
    /// Puts another file in its place.
    Replace(&'static str, &'static str),
    Remove(&'static str),
    /// Moves it out of the served directory, with a link in its place.
    MoveOutside(&'static str),
    MoveBack(&'static str),
    /// Switches the served link to another directory with the same files.
    Switch,
    RemoveAll,
}

impl Change {
    fn any() -> impl Strategy<Value = Change> {
        let file = || prop::sample::select(vec!["a", "b/a"]);
        let content = || prop::sample::select(vec!["one", "two"]);
        let any = || prop::sample::select(vec!["a", "b/a", "b"]);
        prop_oneof![
            4 => (file(), content()).prop_map(|(file, content)| Change::Write(file, content)),
            4 => (file(), content()).prop_map(|(file, content)| Change::Replace(file, content)),
            1 => any().prop_map(Change::Remove),
            2 => any().prop_map(Change::MoveOutside),
            2 => any().prop_map(Change::MoveBack),
            1 => Just(Change::Switch),
            1 => Just(Change::RemoveAll),
        ]
    }

    /// Makes the change, as far as possible.
    fn make(self, base: &Path) {
        wait_for_another_time(base);
        let current = base.join("current");
        let outside = |name: &str| base.join(format!("outside-{}", name.replace('/', "-")));
        let write = |path: &Path, content: &str| {
            if fs::write(path, content).is_ok() {
                File::options().write(true).open(path).unwrap().set_modified(TIME).unwrap();
            }
        };
        match self {
            Change::Write(name, content) => write(&current.join(name), content),
            Change::Replace(name, content) => {
                let new = base.join("new");
                write(&new, content);
                let _ = fs::rename(new, current.join(name));
            }
            Change::Remove(name) => {
                let path = current.join(name);
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir_all(&path);
            }
            Change::MoveOutside(name) => {
                let _ = fs::remove_file(outside(name));
                let _ = fs::remove_dir_all(outside(name));
                if fs::rename(current.join(name), outside(name)).is_ok() {
                    symlink(outside(name), current.join(name)).unwrap();
                }
            }
            Change::MoveBack(name) => {
                let _ = fs::remove_file(current.join(name));
                let _ = fs::rename(outside(name), current.join(name));
            }
            Change::Switch => {
                let next = if fs::read_link(&current).is_ok_and(|now| now.ends_with("1")) { "2" } else { "1" };
                symlink(next, base.join("next")).unwrap();
                fs::rename(base.join("next"), &current).unwrap();
            }
            Change::RemoveAll => {
                let now = fs::canonicalize(&current).unwrap();
                fs::remove_dir_all(&now).unwrap();
                fs::create_dir_all(now.join("b")).unwrap();
                write(&now.join("a"), "new");
                write(&now.join("b/a"), "new");
            }
        }
    }
}

#[test]
fn each_change_shows_in_the_next_request() {
    let changes = prop::collection::vec((Change::any(), 0..2_u64), 1..8);
    let config = ProptestConfig { cases: 100, ..ProptestConfig::default() };
    proptest!(config, |(changes in changes)| {
        let directory = Directory::new();
        let base = &directory.0;
        for site in ["1", "2"] {
            fs::create_dir_all(base.join(site).join("b")).unwrap();
            for name in ["a", "b/a"] {
                fs::write(base.join(site).join(name), format!("{site}st")).unwrap();
            }
        }
        Change::Switch.make(base);
        let files = Files::new(&base.join("current")).unwrap();
        let mut second = 0;
        let look = |second| {
            let without = Files::new(&base.join("current")).unwrap();
            for target in ["/a", "/b/a", "/b/", "/b"] {
                let now = later(second);
                let wanted = seen(&without, target, now);
                prop_assert_eq!(seen(&files, target, now), wanted.clone(), "{}", target);
                prop_assert_eq!(seen(&files, target, now), wanted, "{} once more", target);
            }
            Ok(())
        };
        look(second)?;
        for (change, seconds) in changes {
            change.make(base);
            second += seconds;
            look(second)?;
        }
    });
}
