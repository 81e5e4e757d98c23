//! What followers of the events cost: `supervisor http` with 50 of them, 5 of which never read, beside one without.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use load::{Load, Mode};

use crate::process::{Directory, Running, write};

const ROUNDS: usize = 5;
/// For each of the two, so that the one with followers has 100,000.
const CONNECTIONS_A_ROUND: u64 = 20_000;
const READERS: usize = 45;
const NEVER_READ: usize = 5;

pub fn run() {
    let directory = Directory::new("events");
    write(&directory.0.join("1k"), vec![b'x'; 1024]);
    compare("a restart now and then", &directory.0, &[]);
    compare("--verbose: an event for each connection, its request and its end", &directory.0, &["--verbose"]);
}

/// What a follower received up to the end.
#[derive(Default)]
struct Heard {
    entries: u64,
    missed: u64,
    last: u64,
}

fn compare(what: &str, files: &Path, options: &[&str]) {
    println!("{what}");
    let start = || Running::supervisor(&[&["http", files.to_str().unwrap()], options].concat());
    let (alone, followed) = (start(), start());
    let readers: Vec<_> = (0..READERS).map(|_| read(follow(&followed))).collect();
    let silent: Vec<_> = (0..NEVER_READ).map(|_| follow(&followed)).collect();
    // Alternating, so that both see the same noise.
    let mut rates: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            for running in [&alone, &followed] {
                assert!(running.admin(&["restart"]).status().unwrap().success());
            }
            (rate(&alone), rate(&followed))
        })
        .collect();
    let cpu = |running: &Running| running.cpu().as_secs_f64() * 1e6 / (ROUNDS as u64 * CONNECTIONS_A_ROUND) as f64;
    let processor = (cpu(&alone), cpu(&followed));
    assert!(followed.admin(&["stop"]).status().unwrap().success());
    let heard: Vec<Heard> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    drop(silent);
    rates.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (without, with) = rates[ROUNDS / 2];
    let ratios: Vec<_> = rates.iter().map(|(without, with)| format!("{:.2}", with / without)).collect();
    println!("  without followers {without:>8.0} connections/s, {:>5.1} µs processor time each", processor.0);
    println!("  with 50           {with:>8.0} connections/s, {:>5.1} µs processor time each", processor.1);
    println!("  ratio {:.2} (rounds: {})", with / without, ratios.join(", "));
    let (least, most) = (heard.iter().map(|it| it.entries).min(), heard.iter().map(|it| it.entries).max());
    let missed: u64 = heard.iter().map(|it| it.missed).sum();
    println!(
        "  {} events, of which each of {READERS} readers heard {} to {}, and {missed} were missed in all",
        heard[0].last,
        least.unwrap(),
        most.unwrap()
    );
    assert!(heard.iter().all(|it| it.entries + it.missed == it.last), "a follower misses events without notice");
}

fn rate(running: &Running) -> f64 {
    let load = Load::new(running.address, "/1k", vec![b'x'; 1024], Mode::OnePerConnection);
    let report = load.run(CONNECTIONS_A_ROUND);
    assert_eq!(report.lost(), 0, "{report}");
    report.rate()
}

fn follow(running: &Running) -> UnixStream {
    let mut stream = UnixStream::connect(running.socket("http")).unwrap();
    stream.write_all(b"{\"v\":1,\"request\":\"events\",\"since\":0,\"follow\":true}\n").unwrap();
    stream
}

/// Reads to the end, and checks that each number occurs once and in order.
fn read(stream: UnixStream) -> JoinHandle<Heard> {
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    thread::spawn(move || {
        let mut heard = Heard::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            stream.read_until(b'\n', &mut line).unwrap();
            // As little work as possible, because the supervisor is being measured.
            let number = |name: &str| {
                let rest = line.strip_prefix(name.as_bytes())?;
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
                Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
            };
            if let Some(seq) = number("{\"seq\":") {
                heard.entries += 1;
                assert_eq!(seq, heard.entries + heard.missed);
            } else if let Some(last) = number("{\"result\":\"events\",\"last\":") {
                heard.last = last;
                return heard;
            } else {
                let text = String::from_utf8_lossy(&line);
                let missed = text.split("\"missed\":").nth(1).unwrap_or_else(|| panic!("{text:?}"));
                heard.missed += missed.trim_end().trim_end_matches('}').parse::<u64>().unwrap();
            }
        }
    })
}
