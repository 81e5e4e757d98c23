//! The name of an instance.

use std::fmt;

/// The name of an instance: 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, not beginning with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceName(String);

impl InstanceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `server`.
impl Default for InstanceName {
    fn default() -> InstanceName {
        InstanceName("server".into())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl std::str::FromStr for InstanceName {
    type Err = String;

    fn from_str(name: &str) -> Result<InstanceName, String> {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        if !(1..=64).contains(&name.len()) || name.starts_with('.') || !name.chars().all(allowed) {
            Err("a name has 1 to 64 letters, digits, dots, underscores and hyphens, and begins with no dot".into())
        } else if cfg!(windows) && is_device(name) {
            Err(format!("on Windows {name} is a device, so no file can have that name; choose another one"))
        } else {
            Ok(InstanceName(name.to_owned()))
        }
    }
}

/// Whether Windows treats a file with this name as a device, as it does whatever follows after a dot.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul")
        || numbered.is_some_and(|number| number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for name in ["../x", "", ".hidden", "a/b", "a b", &"x".repeat(65)] {
            assert!(name.parse::<InstanceName>().is_err(), "{name} was taken");
        }
        assert_eq!("web-1.test".parse::<InstanceName>().unwrap().as_str(), "web-1.test");
    }

    #[test]
    fn the_name_of_a_device_of_windows_is_none_of_an_instance_there() {
        for name in ["nul", "CON", "aux.web", "prn", "com1", "LPT9.x"] {
            assert_eq!(name.parse::<InstanceName>().is_err(), cfg!(windows), "{name}");
        }
        for name in ["null", "com", "com10", "comx", "web.nul", "console"] {
            name.parse::<InstanceName>().unwrap();
        }
    }
}
