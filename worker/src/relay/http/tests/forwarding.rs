use std::net::Ipv6Addr;

use super::*;

/// The lines that a program gets after its request line and its host.
fn sent(fields: &str, forwarded: Forwarded) -> String {
    let (passed, ending) = pass_requests(with(fields).as_bytes(), &[], forwarded);
    assert_eq!(ending, Ending::Open, "{fields:?}");
    let head = String::from_utf8(passed[0].head.clone()).unwrap();
    let lines = head.strip_prefix("GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    lines.strip_suffix("\r\n").unwrap().into()
}

const ONLY_OURS: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n";

#[test]
fn the_address_of_the_client_is_added_to_those_that_are_known() {
    assert_eq!(sent("", Forwarded::Append), ONLY_OURS);
    assert_eq!(
        sent(
            "A: b\r\nx-forwarded-for: c, d\r\nE: f\r\nX-Forwarded-For:\r\nX-Forwarded-For: g\r\nH: i\r\n",
            Forwarded::Append
        ),
        "A: b\r\nE: f\r\nH: i\r\nX-Forwarded-For: c, d, g, 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
    );
}

#[test]
fn a_known_protocol_is_kept_with_append() {
    assert_eq!(
        sent("X-Forwarded-Proto: https\r\nForwarded: for=x\r\n", Forwarded::Append),
        "X-Forwarded-Proto: https\r\nForwarded: for=x\r\nX-Forwarded-For: 192.0.2.1\r\n"
    );
}

#[test]
fn a_forged_address_never_passes_with_replace() {
    for forged in [
        "X-Forwarded-For: 6.6.6.6\r\n",
        "x-forwarded-for: 6.6.6.6\r\nX-FORWARDED-FOR:6.6.6.6\r\n",
        "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX.Forwarded.For: 6.6.6.6\r\n",
        "X-Forwarded-Proto: 6.6.6.6\r\nx_forwarded_proto: 6.6.6.6\r\n",
        "Forwarded: for=6.6.6.6\r\nFORWARDED: for=6.6.6.6\r\n",
        "X-Forwarded-For:\r\nX-Forwarded-For: 6.6.6.6\r\n",
    ] {
        assert_eq!(sent(forged, Forwarded::Replace), ONLY_OURS, "{forged:?}");
        assert_eq!(
            sent(&format!("A: b\r\n{forged}C: d\r\n"), Forwarded::Replace),
            format!("A: b\r\nC: d\r\n{ONLY_OURS}")
        );
    }
    for folded in
        ["A: b\r\n X-Forwarded-For: 6.6.6.6\r\n", "X-Forwarded-For:\r\n 6.6.6.6\r\n", "X-Forwarded-For : 6.6.6.6\r\n"]
    {
        assert_eq!(status(with(folded)), Some(400), "{folded:?}");
    }
}

#[test]
fn a_client_cannot_have_the_program_ignore_our_fields() {
    for forwarded in [Forwarded::Append, Forwarded::Replace] {
        assert_eq!(
            sent("Connection: TE, x-forwarded-for, Upgrade,X-Forwarded_Proto\r\nTE: trailers\r\n", forwarded),
            format!("Connection: TE, Upgrade\r\nTE: trailers\r\n{ONLY_OURS}")
        );
        assert_eq!(
            sent("Connection: Forwarded\r\nConnection: TE\r\n", forwarded),
            format!("Connection: TE\r\n{ONLY_OURS}")
        );
        assert_eq!(
            sent("Connection:  a , b \r\n", forwarded),
            format!("Connection:  a , b \r\n{ONLY_OURS}"),
            "others are left"
        );
    }
}

#[test]
fn nothing_is_changed_when_forwarding_is_off() {
    let fields = "X-Forwarded-For: 1\r\nConnection: x-forwarded-for\r\nForwarded: for=x\r\n";
    assert_eq!(sent(fields, Forwarded::Off), fields);
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address() {
    for (peer, line) in [
        (Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped(), "X-Forwarded-For: 192.0.2.7\r\n"),
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), "X-Forwarded-For: 2001:db8::1\r\n"),
    ] {
        let mut head = Vec::new();
        request(with("").as_bytes(), peer.into(), Forwarded::Replace, &mut head).unwrap();
        assert!(String::from_utf8(head).unwrap().contains(line), "{peer}");
    }
}
