//! The model, key by key, and how it is drawn.

#![allow(clippy::unwrap_used)]
use std::time::{Duration, Instant};

use mastercontrol::protocol::{Connection, Entry};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::{Value, json};

use super::input::{Command, Effect, Input, Instance, Key, Look};
use super::model::{Dialog, Model, Screen};
use super::view::View;
use super::watching::{Order, Watching};

/// A connection with this number, activity and age. It has received as many bytes as its number.
fn connection(id: u64, activity: &str, age_ms: u64) -> Connection {
    let peer = format!("127.0.0.1:{}", 40_000 + id);
    let fields = json!({
        "id": id, "peer": peer, "age_ms": age_ms, "activity": activity, "received": id, "sent": 1000 - id,
        "generation": 1,
    });
    serde_json::from_value(fields).unwrap()
}

/// A look at a supervisor with these connections at this time, and more of its status.
fn look(at: Instant, connections: Vec<Connection>, more: &Value) -> Input {
    let mut status = json!({
        "name": "web", "kind": "echo", "state": "serving", "ready": true, "pid": 7, "uptime_ms": 61_000,
        "address": "127.0.0.1:8000", "generation": 1, "version": "1",
        "connections": { "now": connections.len(), "total": connections.len(), "refused": 0, "forced": 2 },
    });
    status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let status = serde_json::from_value(status).unwrap();
    Input::Looked(Ok(Look { at, status, connections: Some(connections) }))
}

fn several() -> Vec<Connection> {
    vec![
        connection(1, "idle", 9000),
        connection(2, "busy", 1000),
        connection(3, "draining", 5000),
        connection(4, "busy", 2000),
    ]
}

fn drain(remaining_ms: u64) -> Value {
    json!({ "drain": { "generation": 1, "by": "x", "open": 4, "remaining_ms": remaining_ms, "connections": [] } })
}

/// A model of one supervisor with these connections.
fn watching(connections: Vec<Connection>, more: &Value) -> Model {
    let mut model = Model::new(Some("web".into()));
    assert_eq!(model.update(look(Instant::now(), connections, more)), None);
    model
}

fn one(model: &Model) -> &Watching {
    match &model.screen {
        Screen::One(one) => one,
        Screen::List(_) => panic!("it shows the list"),
    }
}

fn ids(model: &Model) -> Vec<u64> {
    one(model).connections().iter().map(|connection| connection.id).collect()
}

fn press(model: &mut Model, keys: impl IntoIterator<Item = Key>) -> Option<Effect> {
    keys.into_iter().fold(None, |_, key| model.update(Input::Key(key)))
}

fn typed(model: &mut Model, letters: &str) -> Option<Effect> {
    press(model, letters.chars().map(Key::Char))
}

#[test]
fn those_that_hold_up_a_drain_come_first_until_another_order_is_wanted() {
    let mut model = watching(several(), &json!({}));
    assert_eq!(ids(&model), [4, 2, 3, 1]);
    for (order, expected) in [
        (Order::Age, [1, 3, 4, 2]),
        (Order::Received, [4, 3, 2, 1]),
        (Order::Sent, [1, 2, 3, 4]),
        (Order::Peer, [1, 2, 3, 4]),
    ] {
        typed(&mut model, "o");
        assert_eq!((one(&model).order, ids(&model)), (order, expected.to_vec()));
    }
    // The next look keeps the same order.
    model.update(look(Instant::now(), several(), &json!({})));
    assert_eq!(ids(&model), [1, 2, 3, 4]);
    typed(&mut model, "o");
    assert_eq!(ids(&model), [4, 2, 3, 1]);
}

#[test]
fn a_command_is_given_when_y_confirms_it_and_by_nothing_else() {
    for (key, command) in [('k', Command::Close { id: 4 }), ('r', Command::Restart), ('s', Command::Stop)] {
        let mut model = watching(several(), &json!({}));
        assert_eq!(typed(&mut model, &key.to_string()), None);
        assert_eq!(model.dialog, Dialog::Confirm(command.clone()));
        assert!(model.question(&command).ends_with('?'));
        assert_eq!(typed(&mut model, "y"), Some(Effect::Command(command)));
        assert_eq!(typed(&mut model, "y"), None, "it is given once");
    }
    let keys = [
        Key::Char('k'),
        Key::Char('r'),
        Key::Char('s'),
        Key::Char('+'),
        Key::Char('-'),
        Key::Char('o'),
        Key::Char('?'),
        Key::Char('n'),
        Key::Up,
        Key::Down,
        Key::PageUp,
        Key::PageDown,
        Key::Home,
        Key::End,
        Key::Enter,
        Key::Escape,
    ];
    for first in keys {
        for second in keys {
            for third in keys {
                let mut model = watching(several(), &drain(5000));
                assert_eq!(press(&mut model, [first, second, third]), None, "{first:?} {second:?} {third:?}");
            }
        }
    }
}

#[test]
fn each_press_moves_the_deadline_by_ten_seconds() {
    let mut model = watching(several(), &drain(24_500));
    typed(&mut model, "+");
    assert_eq!(model.dialog, Dialog::Confirm(Command::Grace(Duration::from_secs(35))));
    typed(&mut model, "+-");
    assert_eq!(typed(&mut model, "-y"), Some(Effect::Command(Command::Grace(Duration::from_secs(25)))));
    typed(&mut model, "----");
    assert_eq!(model.dialog, Dialog::Confirm(Command::Grace(Duration::ZERO)));
    let mut model = watching(several(), &json!({}));
    assert_eq!(typed(&mut model, "+y"), None);
    assert_eq!(typed(&mut model, "-"), None);
    assert!(matches!(&model.said, Some(Err(why)) if why.contains("no drain")), "{:?}", model.said);
}

#[test]
fn the_bar_of_a_drain_is_full_at_its_longest_and_shrinks_with_time() {
    let began = Instant::now();
    let mut model = Model::new(Some("web".into()));
    let part = |model: &Model, seconds| one(model).remaining(began + Duration::from_secs(seconds)).unwrap().part;
    model.update(look(began, several(), &drain(20_000)));
    assert_eq!((part(&model, 0), part(&model, 10), part(&model, 30)), (1.0, 0.5, 0.0));
    model.update(look(began + Duration::from_secs(10), several(), &drain(10_000)));
    assert_eq!(part(&model, 10), 0.5);
    // Another, later deadline.
    model.update(look(began + Duration::from_secs(10), several(), &drain(40_000)));
    assert_eq!(part(&model, 10), 1.0);
    model.update(look(began, several(), &json!({})));
    assert!(one(&model).remaining(began).is_none());
}

#[test]
fn the_selected_connection_stays_selected_and_the_next_one_follows_one_that_is_gone() {
    let mut model = watching(several(), &json!({}));
    assert_eq!(one(&model).selected, Some(4));
    press(&mut model, [Key::Down]);
    assert_eq!(one(&model).selected, Some(2));
    let without = |ids: &[u64]| several().into_iter().filter(|it| !ids.contains(&it.id)).collect();
    model.update(look(Instant::now(), without(&[4]), &json!({})));
    assert_eq!((ids(&model), one(&model).selected), (vec![2, 3, 1], Some(2)));
    model.update(look(Instant::now(), without(&[4, 2]), &json!({})));
    assert_eq!((ids(&model), one(&model).selected), (vec![3, 1], Some(3)));
    press(&mut model, [Key::End]);
    model.update(look(Instant::now(), without(&[4, 2, 1]), &json!({})));
    assert_eq!(one(&model).selected, Some(3));
    model.update(look(Instant::now(), Vec::new(), &json!({})));
    assert_eq!((one(&model).selected, typed(&mut model, "k")), (None, None));
    assert!(matches!(model.said, Some(Err(_))));
    press(&mut model, [Key::Down, Key::End, Key::Up]);
}

#[test]
fn from_the_list_to_one_and_back() {
    let instance = |name: &str| Instance { name: name.into(), cells: ["http", "8000", "1", "serving"].map(Into::into) };
    let mut model = Model::new(None);
    assert_eq!(press(&mut model, [Key::Enter]), None, "there is nothing yet");
    model.update(Input::Listed(Ok(vec![instance("a"), instance("b")])));
    press(&mut model, [Key::Down]);
    // A new instance before it changes nothing.
    model.update(Input::Listed(Ok(vec![instance("a"), instance("aa"), instance("b")])));
    assert_eq!(press(&mut model, [Key::Enter]), Some(Effect::Watch("b".into())));
    assert_eq!(one(&model).name, "b");
    assert_eq!(press(&mut model, [Key::Escape]), Some(Effect::List));
    assert!(matches!(model.screen, Screen::List(_)));
    assert_eq!(typed(&mut model, "q"), Some(Effect::Quit));
    // With a named supervisor there is no list to go back to.
    let mut model = watching(several(), &json!({}));
    assert_eq!(press(&mut model, [Key::Escape]), None);
    assert_eq!(one(&model).name, "web");
}

#[test]
fn it_ends_by_q_and_by_ctrl_c_whatever_is_asked() {
    let mut model = watching(several(), &json!({}));
    assert_eq!(typed(&mut model, "q"), Some(Effect::Quit));
    typed(&mut model, "s");
    assert_eq!(press(&mut model, [Key::Interrupt]), Some(Effect::Quit));
    assert_eq!(model.update(Input::Quit), Some(Effect::Quit));
}

#[test]
fn what_became_of_a_command_is_said_and_does_not_answer_the_next_question() {
    let mut model = watching(several(), &json!({}));
    typed(&mut model, "s");
    model.update(Input::Done(Ok("connection 4 disconnected".into())));
    assert_eq!(model.dialog, Dialog::Confirm(Command::Stop));
    assert_eq!(typed(&mut model, "y"), Some(Effect::Command(Command::Stop)));
}

#[test]
fn a_supervisor_that_is_gone_is_said_to_be_and_found_again() {
    let now = Instant::now();
    let mut model = watching(several(), &json!({}));
    assert_eq!(one(&model).trouble(now), None);
    assert!(one(&model).trouble(now + Duration::from_secs(60)).unwrap().starts_with("no answer for "));
    model.update(Input::Looked(Err("it is not running any more".into())));
    assert_eq!(one(&model).trouble(now).unwrap(), "it is not running any more");
    model.update(look(now, several(), &json!({})));
    assert_eq!(one(&model).trouble(now), None);
}

fn event(seq: u64, message: &str) -> Input {
    let entry =
        json!({ "seq": seq, "time": "2026-01-31T12:00:00.000Z", "level": "warning", "event": "x", "message": message });
    Input::Happened(serde_json::from_value::<Entry>(entry).unwrap())
}

#[test]
fn events_of_one_that_was_started_again_replace_those_before() {
    let mut model = watching(several(), &json!({}));
    model.update(Input::Begun("one".into()));
    model.update(event(1, "first"));
    // The follower asks again after a while, and continues.
    model.update(Input::Begun("one".into()));
    model.update(event(2, "second"));
    assert_eq!(one(&model).events.len(), 2);
    model.update(Input::Begun("two".into()));
    assert!(one(&model).events.is_empty());
    (0..1000).for_each(|seq| drop(model.update(event(seq, "many"))));
    assert!(one(&model).events.len() < 1000);
}

#[test]
fn the_history_has_rates_and_none_across_a_start() {
    let began = Instant::now();
    let counts = |now, total| json!({ "connections": { "now": now, "total": total, "refused": 0 } });
    let mut model = Model::new(Some("web".into()));
    for (second, now, total) in [(0, 3, 10), (2, 5, 30), (3, 0, 4)] {
        model.update(look(began + Duration::from_secs(second), several(), &counts(now, total)));
    }
    let history = &one(&model).history;
    assert_eq!((&history.open, &history.rate), (&[3, 5, 0].into(), &[0, 10, 0].into()));
}

/// What is on the screen.
fn drawn(model: &Model, width: u16, height: u16, colours: bool) -> (String, Terminal<TestBackend>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| View { colours }.draw(frame, model, Instant::now())).unwrap();
    let text = terminal.backend().to_string();
    (text, terminal)
}

/// A model with two looks, so that there is a history.
fn whole(more: &Value) -> Model {
    let mut model = watching(several(), more);
    model.update(look(Instant::now(), several(), more));
    model.update(Input::Begun("one".into()));
    model.update(event(1, "the admin socket is gone"));
    model
}

#[test]
fn all_of_it_fits_into_80_columns_and_24_lines() {
    let mut model = whole(&drain(20_000));
    let (text, _) = drawn(&model, 80, 24, true);
    for part in [
        " web  echo  serving, ready",
        "127.0.0.1:8000   pid 7",
        "up 61 s",
        "ready  generation 1 ",
        "0 restarts   0 crashes",
        "4 connected, 4 in all, 0 refused, 2 forced",
        "connections: 4, at most 4",
        "new connections per second: 0",
        "generation 1 draining: 4 clients, 20 s to go ██",
        "what holds up a drain first",
        ">4 ",
        "127.0.0.1:40001",
        "██████████",
        "warning: the admin socket is gone",
        "q quit",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    typed(&mut model, "k");
    let (text, _) = drawn(&model, 80, 24, true);
    assert!(text.contains("Notify connection 4 from 127.0.0.1:40004, and close it?  y: yes"), "{text}");
    typed(&mut model, "n?");
    assert!(drawn(&model, 80, 24, true).0.contains("notify the client, and close its connection"));
}

#[test]
fn it_is_drawn_in_any_size() {
    let mut asked = whole(&drain(20_000));
    typed(&mut asked, "s");
    let mut helped = whole(&json!({}));
    typed(&mut helped, "?");
    let mut list = Model::new(None);
    list.update(Input::Listed(Ok(vec![Instance { name: "a".into(), cells: Default::default() }])));
    for model in [asked, helped, list, Model::new(None), Model::new(Some("web".into()))] {
        for (width, height) in [(1, 1), (2, 3), (10, 5), (20, 12), (40, 13), (80, 18), (300, 80)] {
            drawn(&model, width, height, true);
        }
    }
    // The connections and the question remain even with little room.
    assert!(drawn(&whole(&json!({})), 60, 11, true).0.contains("127.0.0.1:40001"));
}

#[test]
fn without_colours_there_are_none() {
    let mut model = whole(&drain(20_000));
    model.update(Input::Looked(Err("gone".into())));
    let colours = |colours| {
        let (_, terminal) = drawn(&model, 80, 24, colours);
        terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    assert_eq!(colours(false), 0);
    assert!(colours(true) > 0);
}
