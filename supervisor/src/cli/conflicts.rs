//! Settings that exclude each other, or need each other.

use std::net::SocketAddr;
use std::time::Duration;

use super::definition::{Relaying, ServerArgs};
use super::error::ConfigError;
use super::server::{Front, Server, another};
use super::values::RelayKind;
use crate::child::{CheckKind, Probe, Ready};
use crate::listen::{Address, ProgramSocket, in_words};
use crate::text::Seconds;

/// The options of a program that exclude each other, or need each other.
pub(super) fn check_program(
    server: &ServerArgs,
    passed: &[Address],
    is_said: &dyn Fn(&str) -> bool,
) -> Result<(), ConfigError> {
    let ServerArgs::Exec {
        listen,
        relay,
        relaying,
        socket_mode,
        stop_signal,
        drain_signal,
        resume_signal,
        ready,
        ready_within,
        overlap,
        checks,
        program,
        ..
    } = server
    else {
        return Ok(());
    };
    if program.first().is_some_and(|program| program.is_empty()) {
        return Err(ConfigError::Invalid(
            "the name of the program is empty; say what to run: supervisor exec ./server".into(),
        ));
    }
    if let Some(Ready::After(time)) = ready
        && is_said("ready_within")
        && time > ready_within
    {
        let (time, within) = (Seconds(*time), Seconds(*ready_within));
        return Err(ConfigError::Invalid(format!(
            "\"ready\" waits {time}, and \"ready-within\" allows {within}: say a shorter time, or allow more"
        )));
    }
    if is_said("grace") && stop_signal.as_ref().is_some_and(|signals| signals.whole.is_some()) {
        return Err(ConfigError::Invalid(
            "the times of \"stop-signal\" say how long a stop takes, and so does \"grace\": leave out \"grace\" or the \
             first time"
                .into(),
        ));
    }
    check_addresses(listen, passed, relay.is_some(), *socket_mode, ready.as_ref(), checks.check.as_ref())?;
    check_relay(*relay, relaying, listen, passed, ready.as_ref(), checks.check.as_ref())?;
    let of_check =
        [("check_every", "check-every"), ("check_timeout", "check-timeout"), ("check_failures", "check-failures")];
    if checks.check.is_none()
        && let Some((_, name)) = of_check.into_iter().find(|(id, _)| is_said(id))
    {
        return Err(ConfigError::Invalid(format!(
            "{name:?} needs \"check\": without it the program is not checked; say how, for example --check connect=8000"
        )));
    }
    if listen.is_empty() && passed.is_empty() && !overlap.is_zero() {
        return Err(ConfigError::Invalid(
            "\"overlap\" needs \"listen\": without it the old program has to end before the new one starts".into(),
        ));
    }
    match (drain_signal, resume_signal) {
        (None, Some(_)) => Err(ConfigError::Invalid(
            "\"resume-signal\" needs \"drain-signal\": a program that does not hear that it is taken out of rotation \
             need not hear that it is back"
                .into(),
        )),
        (Some(drain), Some(resume)) if drain == resume => Err(ConfigError::Invalid(
            "\"drain-signal\" and \"resume-signal\" are the same signal; choose another one for either".into(),
        )),
        (None | Some(_), None) | (Some(_), Some(_)) => Ok(()),
    }
}

/// What its addresses, and the probes on them, exclude.
fn check_addresses(
    listen: &[ProgramSocket],
    passed: &[Address],
    relayed: bool,
    mode: Option<u32>,
    ready: Option<&Ready>,
    check: Option<&CheckKind>,
) -> Result<(), ConfigError> {
    let any_port = |address: &Address| address.tcp().is_some_and(|address| address.port() == 0);
    let mut rest = listen;
    while let [ProgramSocket { address, name, .. }, others @ ..] = rest {
        if others.iter().any(|other| other.address == *address) && !any_port(address) {
            return Err(ConfigError::Invalid(format!("\"listen\" has {address} twice; keep one")));
        }
        if let Some(name) = name
            && others.iter().any(|other| other.name.as_ref() == Some(name))
        {
            return Err(ConfigError::Invalid(format!("\"listen\" has the name {name} twice; choose another one")));
        }
        if !relayed && passed.contains(address) {
            return Err(ConfigError::Invalid(format!(
                "\"listen\" has {address}, and the service manager passes a socket on it: leave it out of \"listen\", since \
                 the program gets the sockets that are passed in any case"
            )));
        }
        rest = others;
    }
    if mode.is_some() && listen.iter().all(|listen| listen.address.tcp().is_some()) {
        return Err(ConfigError::Invalid("\"socket-mode\" is for Unix sockets, and \"listen\" has none".into()));
    }
    let ready = match ready {
        Some(Ready::Probe(probe)) => Some(probe),
        _ => None,
    };
    let check = match check {
        Some(CheckKind::Probe(probe)) => Some(probe),
        _ => None,
    };
    for (option, probe, instead) in
        [("--ready", ready, "http=URL, --ready notify or a time"), ("--check", check, "http=URL or --check notify")]
    {
        if let Some(Probe::Connect(address)) = probe
            && let Some(own) =
                listen.iter().map(|listen| &listen.address).chain(passed).find(|own| own.accepts(address))
        {
            return Err(ConfigError::Invalid(format!(
                "{option} connect={address} cannot work with --listen {own}: the supervisor itself holds that socket. \
                 Use {option} {instead}."
            )));
        }
    }
    Ok(())
}

/// What needs a relay, and what a relay needs.
fn check_relay(
    relay: Option<RelayKind>,
    relaying: &Relaying,
    listen: &[ProgramSocket],
    passed: &[Address],
    ready: Option<&Ready>,
    check: Option<&CheckKind>,
) -> Result<(), ConfigError> {
    let refuse = |message: String| Err(ConfigError::Invalid(message));
    let Relaying { forwarded, wait, answer_within, max_connections } = relaying;
    let of_http = [("forwarded", forwarded.is_some()), ("answer-within", answer_within.is_some())];
    let of_all = [("wait", wait.is_some()), ("max-connections", max_connections.is_some())];
    let said = |options: &[(&'static str, bool)]| options.iter().find(|(_, said)| *said).map(|(name, _)| *name);
    let Some(relay) = relay else {
        let private = [
            ("ready", matches!(ready, Some(Ready::Probe(probe)) if probe.needs_private_port())),
            ("check", matches!(check, Some(CheckKind::Probe(probe)) if probe.needs_private_port())),
        ];
        return match (said(&of_http).or(said(&of_all)), said(&private)) {
            (Some(name), _) => {
                refuse(format!("{name:?} needs \"relay\": without it the program serves its clients itself"))
            }
            (None, Some(name)) => refuse(format!(
                "{name:?} has no address, and only \"relay\" gives the program a private port: say connect=8000 or \
                 http=http://127.0.0.1:8000/path"
            )),
            (None, None) => Ok(()),
        };
    };
    if let (RelayKind::Tcp, Some(name)) = (relay, said(&of_http)) {
        return refuse(format!(
            "{name:?} is for \"relay\": \"http\"; with \"tcp\" the bytes are passed on as they are"
        ));
    }
    match (passed, listen) {
        ([], _) | ([Address::Tcp(_)], []) => {}
        ([Address::Tcp(passed)], [listen]) if listen.address == Address::Tcp(*passed) => {}
        ([Address::Tcp(passed)], listen) => return Err(another(&in_words(listen), passed)),
        #[cfg(unix)]
        ([Address::Unix(path)], _) => {
            return refuse(format!(
                "\"relay\" has TCP clients only, and the service manager passed a Unix socket ({}); in a .socket unit \
                 write ListenStream= with a port",
                path.display()
            ));
        }
        ([_, _, ..], _) => {
            return refuse(format!(
                "\"relay\" has one address, and the service manager passed several sockets ({}); keep one",
                in_words(passed)
            ));
        }
    }
    match listen {
        [] if !passed.is_empty() => Ok(()),
        [] => refuse("\"relay\" needs \"listen\": the address on which clients connect".into()),
        [ProgramSocket { address: Address::Tcp(_), name: None, .. }] => Ok(()),
        [ProgramSocket { name: Some(name), .. }] => refuse(format!(
            "\"listen\" has the name {name}, but with \"relay\" the program gets no socket; leave the name out"
        )),
        #[cfg(unix)]
        [socket @ ProgramSocket { address: Address::Unix(_), .. }] => {
            refuse(format!("\"relay\" has TCP clients only, and \"listen\" is {socket}; say a port"))
        }
        [_, _, ..] => refuse("\"relay\" has one address, and \"listen\" has several; keep one".into()),
    }
}

/// Whether the health endpoint has an address of its own.
pub(super) fn check_health(health: SocketAddr, server: &Server, passed: &[Address]) -> Result<(), ConfigError> {
    let listen = match server {
        Server::Own(own) => vec![Address::Tcp(own.listen)],
        Server::Exec { front: Front::Relay(listen, _), .. } => vec![Address::Tcp(*listen)],
        Server::Exec { front: Front::Sockets(listen), .. } => {
            listen.iter().map(|listen| listen.address.clone()).chain(passed.iter().cloned()).collect()
        }
    };
    match listen.iter().find(|listen| listen.excludes(health)) {
        None => Ok(()),
        Some(listen) => Err(ConfigError::Invalid(format!(
            "\"health\" is {health}, and the server listens on {listen}: choose another port for \"health\""
        ))),
    }
}

/// Whether clients can be let go over this time.
pub(super) fn check_spread(spread: Duration, grace: Duration, server: &Server) -> Result<(), ConfigError> {
    if !spread.is_zero() && matches!(server, Server::Exec { front: Front::Sockets(_), .. }) {
        return Err(ConfigError::Invalid(
            "\"spread\" needs \"relay\": without it only the program knows its clients".into(),
        ));
    }
    if spread > grace {
        let (spread, grace) = (Seconds(spread), Seconds(grace));
        return Err(ConfigError::Invalid(format!(
            "\"spread\" is {spread}, and \"grace\" is {grace}: say at most {grace}, or give more"
        )));
    }
    Ok(())
}
