//! `status`

use std::time::Duration;

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Counts, LastEnd, Relay, Request, Requests, Status};
use mastercontrol::text::{self, Age, Count, Seconds, listed, status_line};

use crate::args::{self, Target};
use crate::ask::ask;
use crate::describe::{describe_delay, describe_drain};
use crate::failure::Failure;

pub(crate) fn status(target: &Target, json: bool, status: &args::Status) -> Result<Exit, Failure> {
    let describe = if status.short { status_line } else { describe_status };
    ask(target, json, Request::Status {}, Patience::short(), |answer| match answer {
        Answer::Status(status) => Some((describe(status), Exit::Done)),
        _ => None,
    })
}

fn describe_status(status: &Status) -> String {
    let Status { name, kind, state, pid, uptime_ms, generation, connections, restarts, crashes, .. } = status;
    let ago = |ms: u64| Age(Duration::from_millis(ms));
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut lines = vec![
        format!("{name} is {state}, {ready}, for {}", ago(status.state_ms)),
        format!("  kind         {kind}"),
        format!("  pid          {pid}"),
        format!("  uptime       {}", ago(*uptime_ms)),
        format!("  generation   {generation}, {} and {}", Count(*restarts, "restart"), Count(*crashes, "crash")),
    ];
    lines.extend(connections.map(|Counts { now, total, refused, forced, .. }| {
        format!("  connections  {now} now, {total} in all, {refused} refused, {forced} forced")
    }));
    if let Some(relay) = &status.relay {
        lines.push(format!("  relay        {}", describe_relay(relay)));
        lines.extend(relay.requests.as_ref().map(|requests| format!("  requests     {}", describe_requests(requests))));
    }
    lines.push(format!("  version      {}", status.version));
    if let Some(program) = &status.program {
        let pid = status.program_pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        lines.insert(2, format!("  program      {program}{pid}"));
    }
    let addresses = status.all_addresses();
    if !addresses.is_empty() {
        lines.insert(2, format!("  address      {}", listed(&addresses, "and")));
    }
    if let Some(says) = &status.says {
        lines.push(format!("  status       {says}"));
    }
    if let Some(evidence) = &status.evidence {
        lines.push(format!("  ready        {evidence}"));
    }
    if let Some(pause) = &status.pause {
        lines.push(format!("  pause        {}, requested by {}", text::pause(pause), pause.by));
    }
    if let Some(delay) = &status.delay {
        lines.push(format!("  delay        {}", describe_delay(delay)));
    }
    if let Some(why) = &status.unavailable {
        lines.push(format!("  not ready    {why}"));
    }
    if let Some(health) = status.health {
        lines.push(format!("  health       {health}"));
    }
    if let Some(drain) = &status.drain {
        lines.push(format!("  drain        {}", describe_drain(drain)));
    }
    if let Some(LastEnd { generation, reason, last_output, ago_ms }) = &status.last_end {
        lines.push(format!("  last crash   generation {generation}, {} ago: {reason}", ago(*ago_ms)));
        lines.extend(last_output.iter().map(|line| format!("               | {line}")));
    }
    if let Some(next_try_ms) = status.next_try_ms {
        lines.push(format!("  next try     in {}", ago(next_try_ms)));
    }
    lines.join("\n")
}

fn describe_relay(relay: &Relay) -> String {
    let Relay { protocol, upstream, held, longest_wait_ms, upstream_failures, given_up, requests: _ } = relay;
    let to = upstream.map_or_else(|| "no program serves".into(), |upstream| format!("to {upstream}"));
    let longest = Seconds(Duration::from_millis(*longest_wait_ms));
    let mut text = format!("{protocol}, {to}, {held} waiting, longest wait {longest} since the last restart began");
    if *upstream_failures > 0 {
        text += &format!(", {}", Count(usize::try_from(*upstream_failures).unwrap_or(usize::MAX), "upstream failure"));
    }
    if *given_up > 0 {
        text += &format!(", {given_up} given up");
    }
    text
}

/// How many requests were answered, by the program and on its behalf.
fn describe_requests(requests: &Requests) -> String {
    let Requests {
        succeeded,
        redirected,
        client_errors,
        server_errors,
        rejected,
        bad_gateway,
        unavailable,
        gateway_timeout,
        retries,
    } = requests;
    format!(
        "program: {succeeded} 2xx, {redirected} 3xx, {client_errors} 4xx, {server_errors} 5xx; relay: {rejected} 4xx, \
         {bad_gateway} 502, {unavailable} 503, {gateway_timeout} 504; {retries} retried"
    )
}
