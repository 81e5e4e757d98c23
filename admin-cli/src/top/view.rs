//! How `top` looks: a model, drawn. It fits into any size; parts that have no room are left out from below, the least
//! important first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mastercontrol::protocol::{Activity, Connection, Counts, Level, Status};
use mastercontrol::text::{self, Age, Clock, Count, ToGo, place};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, TableState};

use crate::describe::{bar, shorten};

use super::list::List;
use super::model::{Dialog, Model, Screen};
use super::watching::{Remaining, Watching};

/// The heights from which there is room for the history, and for events.
const ROOM_FOR_HISTORY: u16 = 18;
const ROOM_FOR_EVENTS: u16 = 12;

const HELP: [&str; 15] = [
    "",
    "  Up, Down         select a connection",
    "  PgUp, PgDn       ten at once",
    "  o                next order of the connections",
    "",
    "  k                notify the client, and close its connection",
    "  + -              move the deadline of the drain by 10 s",
    "  r                restart the server",
    "  s                stop the supervisor",
    "                   each asks for confirmation first: press y",
    "",
    "  Esc              back to the list, if there are several",
    "  q                quit; the supervisor keeps running",
    "",
    "  Any key closes this.",
];

/// How to draw.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Whether there are colours. Without them, important things are bold or reversed.
    pub(super) colours: bool,
}

impl View {
    pub(super) fn draw(self, frame: &mut Frame<'_>, model: &Model, now: Instant) {
        let [screen, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        match &model.screen {
            Screen::List(list) => self.draw_list(frame, screen, list),
            Screen::One(one) => self.draw_one(frame, screen, one, now),
        }
        frame.render_widget(self.foot(model, foot.width.into()), foot);
        if model.dialog == Dialog::Help {
            draw_help(frame, screen);
        }
    }

    /// The last line: a question, the result of a command, or the keys.
    fn foot(self, model: &Model, width: usize) -> Paragraph<'static> {
        let (text, style) = match (&model.dialog, &model.said, &model.screen) {
            (Dialog::Confirm(command), _, _) => {
                let question = model.question(command);
                (
                    format!(" {question}  y: yes   any other key: no"),
                    self.loud(Color::Yellow).add_modifier(Modifier::REVERSED),
                )
            }
            (_, Some(Ok(said)), _) => (format!(" {}", first_line(said)), self.loud(Color::Green)),
            (_, Some(Err(said)), _) => (format!(" {}", first_line(said)), self.loud(Color::Red)),
            (_, None, Screen::List(_)) => (" Enter watch   ? help   q quit".to_owned(), self.quiet()),
            (_, None, Screen::One(_)) => {
                (" o order   k close   +/- deadline   r restart   s stop   ? help   q quit".to_owned(), self.quiet())
            }
        };
        Paragraph::new(shorten(&text, width)).style(style)
    }

    fn draw_list(self, frame: &mut Frame<'_>, area: Rect, list: &List) {
        let [title, area] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(area);
        frame.render_widget(Line::from(" Supervisors of this user").style(self.bold()), title);
        let said = match &list.instances {
            None => " looking for them",
            Some(Err(why)) => why,
            Some(Ok(instances)) if instances.is_empty() => " none is running",
            Some(Ok(_)) => "",
        };
        if !said.is_empty() {
            frame.render_widget(Line::from(said.to_owned()), area);
            return;
        }
        let rows = list.all().iter().map(|instance| {
            Row::new(std::iter::once(&instance.name).chain(&instance.cells).map(|cell| Cell::from(cell.clone())))
        });
        let widths = [
            Constraint::Fill(2),
            Constraint::Length(8),
            Constraint::Fill(3),
            Constraint::Length(8),
            Constraint::Fill(1),
        ];
        let head = Row::new([" NAME", "KIND", "ADDRESS", "PID", "STATE"]).style(self.bold());
        let table = Table::new(rows, widths).header(head).highlight_symbol(">").row_highlight_style(self.selected());
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(list.selected));
    }

    fn draw_one(self, frame: &mut Frame<'_>, area: Rect, one: &Watching, now: Instant) {
        let has = |room| area.height >= room;
        let history = one.history.open.len() > 1 && has(ROOM_FOR_HISTORY);
        let drain = one.remaining(now).is_some();
        let events = if !has(ROOM_FOR_EVENTS) { 0 } else { (area.height / 4).clamp(4, 12) };
        let [head, graphs, bar, table, log] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(if history { 4 } else { 0 }),
            Constraint::Length(u16::from(drain) * 2),
            Constraint::Fill(1),
            Constraint::Length(events),
        ])
        .areas(area);
        self.draw_head(frame, head, one, now);
        if history {
            let [left, _, right] =
                Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)]).areas(graphs);
            self.draw_graph(frame, left, "connections", &one.history.open);
            self.draw_graph(frame, right, "new connections per second", &one.history.rate);
        }
        self.draw_bar(frame, bar, one, now);
        self.draw_connections(frame, table, one, now);
        self.draw_events(frame, log, one);
    }

    /// The supervisor and its state, in three lines.
    fn draw_head(self, frame: &mut Frame<'_>, area: Rect, one: &Watching, now: Instant) {
        let trouble = one.trouble(now).map(|why| Span::styled(format!("  {why}"), self.loud(Color::Red)));
        let Some(look) = &one.look else {
            let name = Span::styled(format!(" {}", one.name), self.bold());
            frame.render_widget(Line::from_iter(std::iter::once(name).chain(trouble)), area);
            return;
        };
        let status: &Status = &look.status;
        let ago = |ms: u64| Age(Duration::from_millis(ms / 1000 * 1000));
        let how = if status.ready { Color::Green } else { Color::Yellow };
        let first = [
            Span::styled(format!(" {}", status.name), self.bold()),
            Span::raw(format!("  {}  ", status.kind)),
            Span::styled(format!("{}, {}", status.state, text::readiness(status)), self.loud(how)),
            Span::raw(format!("  generation {}", status.generation)),
        ];
        let program = status.program_pid.map(|pid| format!("   program {pid}")).unwrap_or_default();
        let up = ago(status.uptime_ms);
        let second = format!(" {}   pid {}{program}   up {up}", place(status), status.pid);
        let mut third = format!(" {}   {}", Count(status.restarts, "restart"), Count(status.crashes, "crash"));
        third += &match status.connections {
            Some(Counts { now, total, refused, notified: _, forced }) => {
                format!("   {now} connected, {total} in all, {refused} refused, {forced} forced")
            }
            None => "   the program accepts connections itself".into(),
        };
        let shortened = |text: &str| Line::from(shorten(text, area.width.into()));
        let lines = [Line::from_iter(first.into_iter().chain(trouble)), shortened(&second), shortened(&third)];
        frame.render_widget(Paragraph::new(lines.to_vec()), area);
    }

    fn draw_graph(self, frame: &mut Frame<'_>, area: Rect, name: &str, values: &VecDeque<u64>) {
        let [title, graph, _] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(2), Constraint::Length(1)]).areas(area);
        let (last, most) = (values.back().copied().unwrap_or(0), values.iter().copied().max().unwrap_or(0));
        frame.render_widget(Line::from(format!(" {name}: {last}, at most {most}")).style(self.quiet()), title);
        // The newest value is at the right edge.
        let width = usize::from(graph.width).min(values.len());
        let shown: Vec<u64> = values.iter().skip(values.len() - width).copied().collect();
        let [_, graph] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(u16::try_from(width).unwrap_or(0))])
                .areas(graph);
        frame.render_widget(Sparkline::default().data(&shown).style(self.colour(Color::Cyan)), graph);
    }

    /// Draws how much time remains of the drain.
    fn draw_bar(self, frame: &mut Frame<'_>, area: Rect, one: &Watching, now: Instant) {
        let (Some(Remaining { part, ms }), Some(drain)) = (one.remaining(now), one.drain()) else { return };
        let what = match drain.generation {
            Some(generation) => format!("generation {generation} draining"),
            None => "stopping".into(),
        };
        let label = format!(" {what}: {}, {} ", Count(drain.open, "client"), ToGo(ms));
        let width = usize::from(area.width).saturating_sub(label.chars().count() + 1);
        let bar = Span::styled(bar(part, width), self.colour(Color::Yellow));
        frame.render_widget(Line::from_iter([Span::styled(label, self.bold()), bar]), area);
    }

    fn draw_connections(self, frame: &mut Frame<'_>, area: Rect, one: &Watching, now: Instant) {
        let Some(look) = one.look.as_ref().filter(|look| look.connections.is_some()) else { return };
        let [title, area] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        frame.render_widget(Line::from(format!(" Connections, {}", one.order.name())).style(self.quiet()), title);
        let drains = |connection: &Connection| {
            let drain = look.status.drain.as_ref()?;
            // A stop affects all connections.
            let is_of_it = drain.generation.is_none_or(|generation| connection.generation == Some(generation));
            one.remaining(now).filter(|_| is_of_it)
        };
        let rows = one.connections().iter().map(|it| {
            let generation = it.generation.map_or_else(String::new, |generation| generation.to_string());
            let to_go = drains(it).map(|remaining| bar(remaining.part, 10)).unwrap_or_default();
            Row::new([
                Cell::from(it.id.to_string()),
                Cell::from(it.peer.to_string()),
                Cell::from(Age(Duration::from_millis(it.age_ms / 1000 * 1000)).to_string()),
                Cell::from(activity(&it.activity).to_owned()),
                Cell::from(bytes(it.received)),
                Cell::from(bytes(it.sent)),
                Cell::from(generation),
                Cell::from(to_go).style(self.colour(Color::Yellow)),
            ])
        });
        let peers = one.connections().iter().map(|connection| connection.peer.to_string().len()).max().unwrap_or(0);
        let widths = [
            Constraint::Length(5),
            Constraint::Length(u16::try_from(peers.max("PEER".len())).unwrap_or(u16::MAX)),
            Constraint::Length(8),
            Constraint::Fill(1),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(3),
            // Only during a drain.
            Constraint::Length(if one.drain().is_some() { 10 } else { 0 }),
        ];
        let head = Row::new(["ID", "PEER", "AGE", "STATE", "IN", "OUT", "GEN", "REMAINING"]).style(self.bold());
        let table = Table::new(rows, widths).header(head).highlight_symbol(">").row_highlight_style(self.selected());
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(one.index()));
    }

    /// Draws the last events, the newest at the bottom.
    fn draw_events(self, frame: &mut Frame<'_>, area: Rect, one: &Watching) {
        if area.height == 0 {
            return;
        }
        let block = Block::new().title(Line::from(" Events").style(self.quiet()));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let shown = one.events.len().min(usize::from(inner.height));
        let lines = one.events.iter().skip(one.events.len() - shown).map(|entry| {
            let style = match entry.level {
                Level::Detail | Level::Info => Style::new(),
                Level::Warning => self.colour(Color::Yellow),
                Level::Error => self.loud(Color::Red),
            };
            let line = format!(" {}", text::line(entry, Clock::LocalTime));
            Line::from(shorten(&line, inner.width.into())).style(style)
        });
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), inner);
    }

    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn loud(self, colour: Color) -> Style {
        self.colour(colour).add_modifier(Modifier::BOLD)
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = HELP.iter().map(|line| line.len()).max().unwrap_or(0) + 4;
    let (width, height) = (u16::try_from(width).unwrap_or(u16::MAX), HELP.len() as u16 + 2);
    let area = area.centered(Constraint::Length(width.min(area.width)), Constraint::Length(height.min(area.height)));
    let text: Vec<Line<'_>> = HELP.iter().map(|&line| Line::from(line)).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" Keys ")), area);
}

/// The activity in one word: there is no room for more.
fn activity(activity: &Activity) -> &str {
    match activity {
        Activity::Idle => "idle",
        Activity::Busy => "busy",
        Activity::Draining => "draining",
        Activity::Stuck => "hangs",
        Activity::Held => "held",
        Activity::Other(word) => word,
    }
}

/// A number of bytes in five characters at most.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    let mut shown = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if shown < 1000.0 {
            break;
        }
        (shown, unit) = (shown / 1000.0, next);
    }
    if unit.is_empty() || shown >= 99.95 { format!("{shown:.0}{unit}") } else { format!("{shown:.1}{unit}") }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
