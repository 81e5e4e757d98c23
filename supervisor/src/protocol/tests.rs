#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::corpus;

fn error_of(line: &str) -> (ErrorCode, String) {
    match parse_request(line.as_bytes()) {
        Err(Refusal { code, message }) => (code, message),
        other => panic!("{line} was understood: {other:?}"),
    }
}

#[test]
fn a_request_is_one_object_with_a_version() {
    assert_eq!(parse_request(br#"{"v":1,"request":"ping"}"#).unwrap(), Request::Ping {});
    assert_eq!(
        parse_request(br#"{"v":1,"request":"stop","grace_ms":5000}"#).unwrap(),
        Request::Stop { grace_ms: Some(5000), spread_ms: None, delay_ms: None, wait: true }
    );
}

#[test]
fn what_is_not_of_this_protocol_is_named_in_the_answer() {
    for (line, code, part) in [
        ("", ErrorCode::BadRequest, "not a JSON object"),
        ("[1]", ErrorCode::BadRequest, "not a JSON object"),
        (r#"{"request":"ping"}"#, ErrorCode::BadRequest, r#""v":1"#),
        (r#"{"v":2,"request":"status"}"#, ErrorCode::UnsupportedVersion, "version 2"),
        (r#"{"v":1,"request":"dance"}"#, ErrorCode::BadRequest, "dance"),
        (r#"{"v":1}"#, ErrorCode::BadRequest, "request"),
        (r#"{"v":1,"request":"stop","grace":5}"#, ErrorCode::BadRequest, "grace"),
        (r#"{"v":1,"request":"ping","grace_ms":5}"#, ErrorCode::BadRequest, "grace_ms"),
        (r#"{"v":1,"request":"stop","grace_ms":-1}"#, ErrorCode::BadRequest, "-1"),
        (r#"{"v":1,"request":"events","since":-1}"#, ErrorCode::BadRequest, "-1"),
        (r#"{"v":1,"request":"events","since":"the beginning"}"#, ErrorCode::BadRequest, "the beginning"),
        (
            r#"{"v":1,"request":"stop","grace_ms":5000,"grace_ms":0}"#,
            ErrorCode::BadRequest,
            r#""grace_ms" is there twice"#,
        ),
        (r#"{"v":1,"request":"status","request":"stop"}"#, ErrorCode::BadRequest, r#""request" is there twice"#),
        (r#"{"v":2,"request":"stop","v":1}"#, ErrorCode::BadRequest, r#""v" is there twice"#),
    ] {
        let (got, message) = error_of(line);
        assert_eq!(got, code, "{line}");
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn a_line_is_read_up_to_the_limit_and_not_beyond() {
    let whole = [vec![b'x'; MAX_LINE - 1], vec![b'\n']].concat();
    assert_eq!(read_line(&mut &whole[..]).unwrap().len(), MAX_LINE - 1);
    assert!(matches!(read_line(&mut &vec![b'x'; MAX_LINE + 1][..]), Err(LineError::TooLong)));
    assert!(matches!(read_line(&mut &b""[..]), Err(LineError::Closed)));
}

#[test]
fn a_response_is_a_line_that_can_be_read_however_long_its_texts_and_lists_are() {
    let change = |value: String| Change { name: "arguments".into(), from: Some("é".into()), to: Some(value) };
    let restarted = |changes| Answer::Restarted {
        generation: 2,
        replaced: Some(1),
        report: None,
        changes: Some(changes),
        evidence: None,
        down_ms: None,
    };
    let read = |answer: &Answer| {
        let mut line = Vec::new();
        write_response(&mut line, answer).unwrap();
        parse_response(&read_line(&mut &line[..]).unwrap()).unwrap().unwrap()
    };
    let short = restarted(vec![change("x".repeat(60_000))]);
    assert_eq!(read(&short), Response::Answer(short));
    let (long, cut) = ("é".repeat(MAX_LINE), format!("{}…", "é".repeat(CUT)));
    assert_eq!(read(&restarted(vec![change(long)])), Response::Answer(restarted(vec![change(cut)])));
    // Each of these characters takes six bytes.
    let Response::Answer(Answer::Restarted { changes: Some(changes), .. }) =
        read(&restarted(vec![change("\u{1}".repeat(CUT)); 1500]))
    else {
        panic!("another answer")
    };
    assert!(changes.len() >= 10, "{}", changes.len());
    let connection = Connection {
        id: u64::MAX,
        peer: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
        age_ms: u64::MAX,
        activity: Activity::Draining,
        received: u64::MAX,
        sent: u64::MAX,
        generation: Some(1),
    };
    let drain = Drain {
        generation: Some(1),
        by: "its failure".into(),
        open: 100,
        remaining_ms: None,
        connections: vec![connection; MAX_NAMED],
        program_connections: Vec::new(),
    };
    let Response::Answer(Answer::Moved { drains }) = read(&Answer::Moved { drains: vec![drain.clone(); 100] }) else {
        panic!("another answer")
    };
    assert!(drains.len() >= 10 && drains[0].connections[0] == drain.connections[0], "{drains:?}");
}

#[test]
fn an_older_supervisor_has_one_address_and_a_newer_one_all_of_them() {
    let status = |addresses: &str| {
        let line = format!(
            r#"{{"result":"status","name":"x","kind":"exec","state":"serving","pid":1,{addresses}"uptime_ms":1,
            "connections":{{"now":0,"total":0,"refused":0}},"version":"0"}}"#
        );
        match parse_response(line.as_bytes()).unwrap().unwrap() {
            Response::Answer(Answer::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    };
    let older = status(r#""address":"127.0.0.1:8000","#);
    assert_eq!(older.all_addresses(), ["127.0.0.1:8000"]);
    assert!(older.has_port(8000) && !older.has_port(80));
    let newer = status(r#""address":"127.0.0.1:8000","addresses":["/run/8002","127.0.0.1:8000","[::1]:8001"],"#);
    assert_eq!(newer.all_addresses(), ["/run/8002", "127.0.0.1:8000", "[::1]:8001"]);
    assert!(newer.has_port(8000) && newer.has_port(8001) && !newer.has_port(8002));
    let health = status(r#""address":"127.0.0.1:8000","health":"127.0.0.1:9000","#);
    assert!(health.has_health_port(9000) && !health.has_health_port(8000) && !health.has_port(9000));
    assert_eq!(status("").all_addresses(), Vec::<String>::new());
}

#[test]
fn a_ping_is_understood_in_every_version() {
    for line in [r#"{"v":2,"request":"ping"}"#, r#"{"v":"two","request":"ping","mood":"fine"}"#] {
        assert_eq!(parse_request(line.as_bytes()).unwrap(), Request::Ping {}, "{line}");
    }
}

#[test]
fn an_event_of_a_newer_version_is_passed_over() {
    assert_eq!(parse_response(br#"{"event":"eclipse","of":"the moon"}"#).unwrap(), None);
}

#[test]
fn an_event_with_a_number_is_an_entry_whatever_its_name() {
    let line = br#"{"seq":7,"time":"now","level":"info","event":"serving","message":"it serves","generation":2}"#;
    let response = parse_response(line).unwrap().unwrap();
    let Response::Entry(entry) = &response else { panic!("{response:?}") };
    assert_eq!((entry.seq, entry.level, entry.event.as_str()), (7, Level::Info, "serving"));
    assert_eq!(entry.fields, Map::from_iter([("generation".to_owned(), 2.into())]));
    assert_eq!(serde_json::to_vec(&response).unwrap(), line);
}

/// Checks that a line that is understood is written as it was meant, and that any other gets an answer of one line.
fn is_understood_or_refused(line: &[u8]) -> Result<(), TestCaseError> {
    let mut written = Vec::new();
    match parse_request(line) {
        Ok(request) => {
            write_request(&mut written, &request).unwrap();
            prop_assert_eq!(parse_request(&read_line(&mut &written[..]).unwrap()).unwrap(), request);
        }
        Err(refusal) => {
            prop_assert!(!refusal.message.is_empty());
            write_line(&mut written, &Answer::Error(refusal)).unwrap();
            let answer = read_line(&mut &written[..]).unwrap();
            prop_assert!(matches!(parse_response(&answer), Ok(Some(Response::Answer(Answer::Error(_))))));
        }
    }
    let _ = parse_response(line);
    Ok(())
}

#[test]
fn each_request_that_is_kept_is_understood_or_refused() {
    for (name, line) in corpus::kept("request") {
        is_understood_or_refused(&line).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_name_that_is_as_long_as_a_line_is_refused_in_a_shorter_one() {
    let long = "\u{1}".repeat(MAX_LINE / 8);
    is_understood_or_refused(json!({"v": 1, "request": long}).to_string().as_bytes()).unwrap();
    is_understood_or_refused(json!({"v": long, "request": "stop"}).to_string().as_bytes()).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused(line: Vec<u8>) {
        is_understood_or_refused(&line)?;
    }

    #[test]
    fn what_is_nearly_a_request_is_understood_or_refused(line in corpus::nearly("request")) {
        is_understood_or_refused(&line)?;
    }

    #[test]
    fn a_word_of_a_newer_version_is_kept_as_it_is(word: String) {
        let text = Value::from(word);
        prop_assert_eq!(&json!(State::deserialize(&text).unwrap()), &text);
        prop_assert_eq!(&json!(Activity::deserialize(&text).unwrap()), &text);
        prop_assert_eq!(&json!(ErrorCode::deserialize(&text).unwrap()), &text);
    }

    #[test]
    fn what_is_written_is_read_again(grace_ms: Option<u64>, delay_ms: Option<u64>, wait: bool) {
        let restart = Request::Restart { grace_ms, spread_ms: delay_ms, wait };
        let stop = Request::Stop { grace_ms, spread_ms: delay_ms, delay_ms, wait };
        let grace = Request::Grace { grace_ms: delay_ms.unwrap_or_default() };
        let events = Request::Events { since: grace_ms, follow: wait };
        let others = [Request::Ping {}, Request::Status {}, Request::Connections {}];
        for request in others.into_iter().chain([stop, restart, grace, events]) {
            let mut line = Vec::new();
            write_request(&mut line, &request).unwrap();
            prop_assert_eq!(parse_request(&read_line(&mut &line[..]).unwrap()).unwrap(), request);
        }
    }
}
