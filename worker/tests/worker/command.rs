//! The handler `Commands`.

use mastercontrol_worker::Server;
use mastercontrol_worker::handlers::Commands;
use proptest::prelude::*;

use crate::support::{Client, HUGE, Log, Running, eventually};

const HELP: &str = "Commands: HAIKU POEM QUOTE SONG HELP QUIT\n";
const QUOTE: &str = "A server that cannot be asked to leave has to be thrown out.\n";

/// Sends all this, closes its side, and returns all answers.
fn answers(server: &Running, lines: impl AsRef<[u8]>) -> String {
    let mut client = server.client();
    client.send(lines);
    client.half_close();
    String::from_utf8(client.rest()).unwrap()
}

fn ends(server: Running) {
    server.stop(HUGE);
    server.join();
}

#[test]
fn commands_are_taken_in_any_case_and_with_either_line_end() {
    let server = Running::start(Commands::new());
    for line in ["QUOTE\n", "quote\n", "Quote\r\n", "  qUOTE \t\r\n"] {
        assert_eq!(answers(&server, line), QUOTE, "{line:?}");
    }
    ends(server);
}

#[test]
fn commands_that_arrive_together_are_answered_in_order() {
    let server = Running::start(Commands::new());
    assert_eq!(answers(&server, "QUOTE\nHELP\n\r\n\nquote\n"), format!("{QUOTE}{HELP}{QUOTE}"));
    ends(server);
}

#[test]
fn a_command_that_arrives_byte_by_byte_is_one_command() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    client.0.set_nodelay(true).unwrap();
    for byte in b"quote\r\n" {
        client.send([*byte]);
        std::thread::yield_now();
    }
    client.expect(QUOTE);
    drop(client);
    ends(server);
}

#[test]
fn an_unknown_command_is_named_and_the_next_one_works() {
    let server = Running::start(Commands::new());
    assert_eq!(answers(&server, "DANCE now\nQUOTE\n"), format!("Unknown command: DANCE\n{QUOTE}"));
    ends(server);
}

#[test]
fn bytes_that_are_no_text_are_an_unknown_command() {
    let server = Running::start(Commands::new());
    assert_eq!(answers(&server, b"\xff\xfe\nQUOTE\n"), format!("Unknown command: \u{fffd}\u{fffd}\n{QUOTE}"));
    ends(server);
}

#[test]
fn a_line_of_the_greatest_length_is_taken_and_a_longer_one_refused() {
    let server = Running::start(Commands::new().command("LENGTH", |rest| format!("{}\n", rest.len())));
    let line = |length: usize| format!("LENGTH {}", "x".repeat(length - "LENGTH ".len()));
    let too_long = "Line too long: at most 1024 bytes\n";
    for end in ["\n", "\r\n"] {
        assert_eq!(answers(&server, line(1024) + end), "1017\n");
        assert_eq!(answers(&server, line(1025) + end), too_long);
    }
    assert_eq!(answers(&server, "x".repeat(1_000_000) + "\nQUOTE\n"), format!("{too_long}{QUOTE}"));
    ends(server);
}

#[test]
fn a_last_line_without_an_end_is_answered() {
    let server = Running::start(Commands::new());
    assert_eq!(answers(&server, "HELP\nQUOTE"), format!("{HELP}{QUOTE}"));
    ends(server);
}

#[test]
fn quit_says_goodbye_and_closes() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    client.send("quit\r\n");
    client.expect_last("Goodbye\n");
    ends(server);
}

#[test]
fn goodbye_survives_what_the_client_still_sends() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    client.send("QUIT\n".to_owned() + &"SONG\n".repeat(20_000));
    client.expect_last("Goodbye\n");
    drop(client);
    ends(server);
}

#[test]
fn goodbye_survives_what_the_client_sends_later() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    client.send("QUIT\n");
    // It has been answered, and perhaps the handler is done with it: only its counters tell.
    eventually("Goodbye is on its way", || server.connections().first().is_none_or(|first| first.sent > 0));
    for _ in 0..64 {
        client.send([b'x'; 65_536]);
    }
    client.expect_last("Goodbye\n");
    drop(client);
    ends(server);
}

/// Whether the handler quits at one of these lines.
fn quits(input: &[u8]) -> bool {
    input.split(|&byte| byte == b'\n').any(|line| {
        let line = String::from_utf8_lossy(line).into_owned();
        line.trim().split(char::is_whitespace).next().is_some_and(|name| name.eq_ignore_ascii_case("QUIT"))
    })
}

#[test]
fn no_bytes_stop_it_from_serving() {
    let log = Log::default();
    let server = Running::of(log.observe(Server::new(Commands::new())));
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let piece = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..200),
        3 => prop::sample::select(vec!["\n", "\r\n", "\r", " ", "\t", "song", "HELP", "QUIT", "\u{a0}", "\0", "é"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => (1_000usize..1_050).prop_map(|length| vec![b'x'; length]),
    ];
    let input = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    proptest!(config, |(input in input)| {
        let mut client = Client::connect(server.address());
        client.send(&input);
        if !quits(&input) {
            // The end of the last line, and then a command like any other.
            client.send("\nHELP\n");
            client.half_close();
            let answers = client.rest();
            prop_assert!(answers.ends_with(HELP.as_bytes()), "{}", String::from_utf8_lossy(&answers));
        }
    });
    assert_eq!(answers(&server, "QUOTE\n"), QUOTE);
    server.stop(HUGE);
    server.join();
    assert_eq!(log.count("panicked"), 0);
}
