//! Times, as people read and write them.

use std::fmt;
use std::time::Duration;

/// The time that remains, in milliseconds, shown in whole seconds, rounded up. None: there is no limit.
#[derive(Debug, Clone, Copy)]
pub struct ToGo(pub Option<u64>);

impl From<Duration> for ToGo {
    fn from(remaining: Duration) -> ToGo {
        ToGo(limit_ms(remaining))
    }
}

impl fmt::Display for ToGo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => write!(formatter, "{} s to go", ms.div_ceil(1000)),
            None => formatter.write_str("without a deadline"),
        }
    }
}

/// As good as forever: a century. Shorter times are counted.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The name in systemd for a time without an end.
const INFINITY: &str = "infinity";

/// A duration for people: milliseconds below one second, else seconds rounded to tenths.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_millis() + 50) / 100;
        if self.0.is_zero() {
            write!(formatter, "0 s")
        } else if self.0 >= FOR_EVER {
            formatter.write_str(INFINITY)
        } else if self.0 < Duration::from_secs(1) {
            write!(formatter, "{} ms", self.0.as_millis())
        } else if tenths.is_multiple_of(10) {
            write!(formatter, "{} s", tenths / 10)
        } else {
            write!(formatter, "{}.{} s", tenths / 10, tenths % 10)
        }
    }
}

/// A duration for people that may be long: up to two minutes as [`Seconds`], and beyond in its two largest units.
#[derive(Debug, Clone, Copy)]
pub struct Age(pub Duration);

impl fmt::Display for Age {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        match minutes {
            0 | 1 => Seconds(self.0).fmt(formatter),
            2..60 => write!(formatter, "{minutes} min {} s", seconds % 60),
            60..1440 => write!(formatter, "{hours} h {} min", minutes % 60),
            _ => write!(formatter, "{days} d {} h", hours % 24),
        }
    }
}

/// Whole milliseconds, as in the protocol. A time that is too long for them becomes the longest that is not.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A limit in whole milliseconds. None: it is so long that it is no limit.
pub(crate) fn limit_ms(limit: Duration) -> Option<u64> {
    (limit < FOR_EVER).then(|| milliseconds(limit))
}

/// A time as people write it: seconds (`5`, `1.5`), or numbers that each have a unit, `ms`, `s`, `m`, `h` or `d`
/// (`500ms`, `90s`, `1m30s`), or `infinity`. Whatever [`Seconds`] writes can be read, too.
///
/// # Errors
/// A message for people when it is none of these.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    // Not `humantime`: it panics on a text whose sum is too large, and reads `5M` as five months.
    match text.trim() {
        INFINITY => Ok(Duration::MAX),
        text => sum_of_parts(text).ok_or_else(|| {
            "say a time: 5 or 1.5 (seconds), or with units: 500ms, 90s, 2m, 1h, 1m30s, 2d, or infinity".into()
        }),
    }
}

fn sum_of_parts(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    loop {
        // No sign, no `inf`, and no exponent.
        let (number, behind) = split_behind(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, behind) = split_behind(behind.trim_start(), |c| c.is_ascii_alphabetic());
        let seconds = match unit {
            "" if number == text => 1.0,
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 24.0 * 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = sum.checked_add(part)?;
        rest = behind.trim_start();
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

/// The longest prefix that has only such characters, and the rest.
fn split_behind(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_that_remains_is_rounded_up_and_may_have_no_limit() {
        for (remaining, text) in [
            (Duration::from_millis(1001), "2 s to go"),
            (Duration::ZERO, "0 s to go"),
            (Duration::from_secs(u32::MAX.into()), "without a deadline"),
            (Duration::MAX, "without a deadline"),
        ] {
            assert_eq!(ToGo::from(remaining).to_string(), text);
        }
    }

    #[test]
    fn a_long_duration_is_told_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min 0 s"), (7260, "2 h 1 min"), (180_000, "2 d 2 h")]
        {
            assert_eq!(Age(Duration::from_secs(seconds)).to_string(), text);
        }
    }

    #[test]
    fn a_time_is_seconds_unless_it_says_otherwise() {
        for (text, milliseconds) in [
            ("5", 5000),
            ("1.5", 1500),
            (".5", 500),
            ("90s", 90_000),
            ("2m", 120_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h 2m 3.5s", 3_723_500),
            ("0", 0),
            (" 1 h ", 3_600_000),
            ("1d12h", 36 * 3_600_000),
        ] {
            assert_eq!(parse_seconds(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        assert_eq!(parse_seconds(" infinity"), Ok(Duration::MAX));
        let wrong =
            ["", ".", "-1", "+1", "inf", "NaN", "5x", "s", "1e3", "five", "5M", "1h30", "5 6", "1.2.3s", "1m-3s"];
        for text in wrong.into_iter().chain(["99999999999999999999", "18446744073709549568s 3000s"]) {
            assert!(parse_seconds(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (milliseconds, text) in [
            (0, "0 s"),
            (3, "3 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1540, "1.5 s"),
            (4999, "5 s"),
            (90_000, "90 s"),
            (u64::MAX, "infinity"),
        ] {
            assert_eq!(Seconds(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_refused(text: String) {
            let _ = parse_seconds(&text);
        }

        #[test]
        fn what_is_nearly_a_time_is_taken_or_refused(text in "([0-9]{0,20}[.]?[0-9]{0,3} ?(|ms|s|m|h|d) ?){0,4}") {
            let _ = parse_seconds(&text);
        }

        /// Up to some three hundred years.
        #[test]
        fn what_is_shown_is_read_again(milliseconds in prop_oneof![0..5000_u64, 0..10_000_000_000_000_u64]) {
            let shown = Seconds(Duration::from_millis(milliseconds)).to_string();
            prop_assert_eq!(Seconds(parse_seconds(&shown).unwrap()).to_string(), shown);
        }
    }
}
