//! `admin-cli events`: past events, new events, and followers that are refused or end early.

use serde_json::Value;

use crate::recover::{ask, crash, start_fragile};
use crate::support::{Home, Instance};

/// The entries among the lines of `--json`, unchanged.
fn entries(out: &str) -> Vec<&str> {
    out.lines().filter(|line| line.starts_with("{\"seq\":")).collect()
}

/// The lines before the entries and after them.
fn ends(out: &str) -> (Value, Value) {
    let parse = |line: Option<&str>| serde_json::from_str(line.unwrap()).unwrap();
    (parse(out.lines().next()), parse(out.lines().last()))
}

fn seq(entry: &str) -> u64 {
    serde_json::from_str::<Value>(entry).unwrap()["seq"].as_u64().unwrap()
}

/// Asserts that each number from this one on occurs once and in order.
#[track_caller]
fn assert_complete(out: &str, from: u64) {
    let numbers: Vec<u64> = entries(out).into_iter().map(seq).collect();
    let (begins, result) = ends(out);
    assert_eq!((&begins["next"], &begins["missed"]), (&from.into(), &0.into()));
    let last = result["last"].as_u64().unwrap();
    assert!(numbers.iter().copied().eq(from..=last), "{from} to {last}, but got {numbers:?}");
}

/// Produces events until a follower that does not read has no more room.
fn happen(instance: &Instance) {
    for _ in 0..1000 {
        instance.client().greet();
    }
}

#[test]
fn a_follower_hears_of_a_whole_life_what_the_log_says_in_the_same_words_and_order() {
    let home = Home::new();
    let instance = start_fragile(&home);
    let follower = instance.admin_begins(&["events", "--follow"]);
    follower.out.wait_for("listening on");
    instance.admin(&["restart"]).expect(0);
    crash(&instance);
    ask(&mut instance.client());
    instance.admin(&["stop"]).expect(0);
    let heard = follower.end().expect(0);
    heard.says("has ended");
    let log = instance.log();
    let log: Vec<String> = log.lines().zip(1..).map(|(line, seq)| format!("{seq} {line}")).collect();
    assert_eq!(heard.out.lines().collect::<Vec<_>>(), log);
    let mut rest = &heard.out[..];
    for part in
        ["listening", ": restarting", "generation 2 is serving", "2 crashed", "generation 3 is serving", "stopped in"]
    {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in its place: {heard}")).1;
    }
}

#[test]
fn the_json_of_the_events_is_that_of_the_log_with_each_connection_and_request_if_it_is_verbose() {
    let home = Home::new();
    let mut command = home.supervisor(&["http", "--log", "json", "--verbose"]);
    command.current_dir(home.directory());
    let instance = home.start_by(command);
    let follower = instance.admin_begins(&["events", "--follow", "--json"]);
    follower.out.wait_for("listening on");
    instance.client().get("/");
    follower.out.wait_for("\"ended\"");
    instance.admin(&["stop"]).expect(0);
    let heard = follower.end().expect(0);
    assert_complete(&heard.out, 1);
    let log = instance.log();
    assert_eq!(entries(&heard.out), log.lines().collect::<Vec<_>>());
    let names =
        entries(&heard.out).into_iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["listening", "connected", "request", "ended", "stopping", "stopped"],
        "a follower hears of the whole stop"
    );
}

#[test]
fn who_comes_again_with_the_number_of_its_last_event_hears_what_came_then() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let first = instance.admin(&["events", "--json"]).expect(0);
    assert_complete(&first.out, 1);
    let last = seq(entries(&first.out).last().unwrap());
    instance.admin(&["restart"]).expect(0);
    let second = instance.admin(&["events", "--json", "--since", &last.to_string()]).expect(0);
    assert_complete(&second.out, last + 1);
    assert!(second.out.contains("\"restarting\""), "{second}");
    // After the very last number there is nothing new, and that is not a failure.
    let last = ends(&second.out).1["last"].to_string();
    let third = instance.admin(&["events", "--since", &last]).expect(0);
    assert!(third.out.is_empty() && third.err.is_empty(), "{third}");
}

#[test]
fn who_comes_again_to_one_that_was_started_anew_hears_that_and_all_that_it_knows() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let other = ends(&instance.admin(&["events", "--json"]).expect(0).out).0;
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    let instance = home.start(&["echo"]);
    let heard = instance.admin(&["events", "--since", "1000"]).expect(0);
    heard.says("was started again");
    assert!(heard.out.starts_with("1 ") && heard.out.contains("listening on"), "{heard}");
    let begins = ends(&instance.admin(&["events", "--since", "1000", "--json"]).expect(0).out).0;
    assert_eq!((&begins["next"], &begins["missed"]), (&1.into(), &0.into()));
    assert_ne!(begins["began"], other["began"]);
}

#[test]
fn what_is_not_known_any_more_is_told_as_missed() {
    let home = Home::new();
    let instance = home.start(&["echo", "--verbose"]);
    happen(&instance);
    let heard = instance.admin(&["events", "--since", "1", "--json"]).expect(0);
    let begins = ends(&heard.out).0;
    let first = seq(entries(&heard.out)[0]);
    assert_eq!((begins["next"].as_u64(), begins["missed"].as_u64()), (Some(first), Some(first - 2)), "{begins}");
    assert!(entries(&heard.out).len() >= 1000);
    instance.admin(&["events", "--since", "1"]).expect(0).says("missed ");
}

#[test]
fn a_follower_of_one_that_was_killed_hears_where_to_go_on() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let follower = instance.admin_begins(&["events", "--follow"]);
    follower.out.wait_for("listening on");
    instance.kill();
    follower.end().expect(6).says("--since 1");
}

#[test]
fn what_is_no_number_of_an_event_is_exit_code_2() {
    let home = Home::new();
    for since in ["", "x", "-1", "1.5", "18446744073709551616"] {
        home.admin(&["events", &format!("--since={since}")]).expect(2).says("--since");
    }
}

#[cfg(unix)]
mod on_unix {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::Stdio;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::signal::Signal::SIGTERM;

    use super::*;
    use crate::log::is_full;
    use crate::support::{ADMIN_CLI, HUGE, LIMIT, eventually};

    /// A follower that has received the start of the journal.
    fn follow(instance: &Instance, home: &Home) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"{\"v\":1,\"request\":\"events\",\"follow\":true}\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.contains("\"journal\""), "{line} from {}", instance.name);
        stream
    }

    #[test]
    fn followers_that_never_read_are_let_go_and_the_others_hear_everything() {
        let home = Home::new();
        let instance = home.start(&["echo", "--verbose"]);
        let readers: Vec<_> = (0..3).map(|_| instance.admin_begins(&["events", "--follow", "--json"])).collect();
        readers.iter().for_each(|reader| drop(reader.out.wait_for("listening on")));
        let silent: Vec<_> = (0..3).map(|_| follow(&instance, &home)).collect();
        happen(&instance);
        eventually("those that do not read are let go", || {
            instance.err.so_far().matches("does not read the events").count() == silent.len()
        });
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        for reader in readers {
            let heard = reader.end().expect(0);
            assert_complete(&heard.out, 1);
            assert!(entries(&heard.out).len() > 2000, "so few cannot fill a socket");
            assert_eq!(heard.out.matches("\"reader_let_go\"").count(), silent.len());
        }
    }

    #[test]
    fn a_follower_that_does_not_read_does_not_hold_up_the_end() {
        let home = Home::new();
        let instance = home.start(&["echo", "--verbose", "--grace", HUGE]);
        let silent: Vec<_> = (0..3).map(|_| follow(&instance, &home)).collect();
        happen(&instance);
        let readers: Vec<_> = (0..8).map(|_| instance.admin_begins(&["events", "--follow", "--json"])).collect();
        readers.iter().for_each(|reader| drop(reader.out.wait_for("\"journal\"")));
        instance.signal(SIGTERM);
        assert_eq!(instance.wait(), 0);
        drop(silent);
        // And it cuts off no other reader.
        for reader in readers {
            let heard = reader.end().expect(0);
            let (_, result) = ends(&heard.out);
            let last = entries(&heard.out).pop().unwrap();
            assert!(last.contains("\"stopped\"") && result["last"] == seq(last), "{last}\n{result}");
        }
    }

    #[test]
    fn no_line_of_another_process_comes_between_a_message_and_its_end() {
        let home = Home::new();
        let instance = home.start(&["echo"]);
        let (written, stderr) = UnixDatagram::pair().unwrap();
        let mut follower = home.admin_command(&["--name", &instance.name, "events", "--follow"]);
        follower.stdout(Stdio::piped()).stderr(Stdio::from(OwnedFd::from(stderr)));
        let follower = home.spawn(follower);
        follower.out.wait_for("listening on");
        instance.admin(&["stop"]).expect(0);
        follower.end().expect(0);
        // One write is one datagram.
        let mut line = [0; 100];
        let length = written.recv(&mut line).unwrap();
        assert_eq!(std::str::from_utf8(&line[..length]).unwrap(), format!("{} has ended\n", instance.name));
    }

    #[test]
    fn one_follower_too_many_is_refused_and_one_that_has_gone_makes_room() {
        let home = Home::new();
        let instance = home.start(&["echo"]);
        let mut followers: Vec<_> = (0..100).map(|_| follow(&instance, &home)).collect();
        instance.admin(&["events", "--follow"]).expect(1).says("100 clients follow the events already");
        let refusal = instance.admin(&["events", "--follow", "--json"]).expect(1).json();
        assert_eq!((&refusal["result"], &refusal["code"]), (&"error".into(), &"failed".into()));
        // They are not in any client's way.
        instance.admin(&["ping"]).expect(0);
        instance.admin(&["events"]).expect(0).says("listening on");
        // Nothing happens, so it is noticed only because another client connects.
        followers.pop();
        let mut one_more = instance.admin_begins(&["events", "--follow"]);
        eventually("there is room", || {
            if !one_more.is_running() {
                one_more = instance.admin_begins(&["events", "--follow"]);
            }
            one_more.out.so_far().contains("listening on")
        });
        instance.admin(&["stop"]).expect(0);
        one_more.end().expect(0).says("stopped in");
    }

    /// As a person does who reads the first page in `less`, for as long as the supervisor lives.
    #[test]
    fn past_events_are_complete_though_their_reader_makes_a_pause() {
        let home = Home::new();
        let mut command = home.supervisor(&["http", "--verbose"]);
        command.current_dir(home.directory());
        let instance = home.start_by(command);
        let mut client = instance.client();
        // Far more than a socket and a pipe hold.
        let path = format!("/{}", "a".repeat(4000));
        for _ in 0..900 {
            client.get(&path);
        }
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = home.admin_command(&["--name", home.name(), "events", "--json"]);
        command.stdout(writer).stderr(Stdio::piped());
        let events = home.spawn(command);
        let mut reader = BufReader::new(reader);
        let mut out = String::new();
        reader.read_line(&mut out).unwrap();
        instance.kill();
        reader.read_to_string(&mut out).unwrap();
        events.end().expect(0);
        assert!(out.len() > 500_000, "{}", out.len());
        assert_complete(&out, 1);
    }

    /// A pipe is non-blocking for all processes that share it, so another one can have made it so.
    #[test]
    fn past_events_are_complete_though_they_go_to_a_slow_reader_through_a_non_blocking_pipe() {
        let home = Home::new();
        let instance = home.start(&["echo", "--verbose"]);
        // More than the smallest pipe holds.
        happen(&instance);
        let (mut reader, writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut command = home.admin_command(&["--name", home.name(), "events", "--json"]);
        command.stdout(writer.try_clone().unwrap()).stderr(Stdio::piped());
        let events = home.spawn(command);
        eventually("the pipe is full", || is_full(&writer));
        drop(writer);
        let mut out = String::new();
        reader.read_to_string(&mut out).unwrap();
        events.end().expect(0);
        let (begins, _) = ends(&out);
        assert_complete(&out, begins["next"].as_u64().unwrap());
    }

    #[test]
    fn a_reader_that_has_seen_enough_ends_it_quietly() {
        let home = Home::new();
        let instance = home.start(&["echo"]);
        let mut command = home.program("sh");
        command.args(["-c", &format!("{ADMIN_CLI} --name {} events | head -n 1", home.name())]);
        let ended = home.run(command).expect(0);
        assert!(ended.out.contains("listening on") && ended.err.is_empty(), "{ended}");

        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = home.admin_command(&["--name", home.name(), "events", "--follow"]);
        command.stdout(writer).stderr(Stdio::piped());
        let follower = home.spawn(command);
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert!(line.contains("listening on"), "{line}");
        // It finds out with the next event.
        instance.admin(&["restart"]).expect(0);
        let ended = follower.end().expect(0);
        assert!(ended.err.is_empty(), "{ended}");
    }
}
