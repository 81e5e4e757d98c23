//! A JSON file with settings, and the arguments that it stands for.

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, ValueHint};
use serde_json::Value;
use serde_json::error::Category;

use super::directory;
use super::error::ConfigError;
use crate::protocol::members::Members;
use crate::text::{Reason, listed};

/// The longest file that is read, in bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// How much of a value is shown, in characters.
const MAX_SHOWN: usize = 100;

/// A file with settings, as `--config` names it.
#[derive(Debug, Clone)]
pub(super) struct ConfigFile {
    /// Its name as given, for messages.
    pub(super) named: String,
    /// Its absolute path: it is read again later.
    pub(super) path: PathBuf,
}

impl ConfigFile {
    /// The file that is meant by this name in this directory.
    pub(super) fn new(named: &Path, directory: &Path) -> ConfigFile {
        ConfigFile { path: directory::join(directory, named), named: named.display().to_string() }
    }

    /// The arguments that the file stands for, each valid for this kind of server. The directory to serve is left out
    /// if the command line has one.
    pub(super) fn arguments(&self, cli: &Command, kind: &str, has_dir: bool) -> Result<Arguments, ConfigError> {
        let directory = self.path.parent().unwrap_or(&self.path);
        let translated = |settings: Vec<_>| translate(&settings, directory, cli, kind, has_dir);
        let arguments =
            read(&self.path).and_then(|bytes| understand(&bytes).and_then(translated).map_err(ConfigError::Invalid));
        arguments.map_err(|problem| problem.in_file(&self.named))
    }

    /// How many of its settings are those of this kind of server, whatever their values are.
    pub(super) fn known_settings(&self, cli: &Command, kind: &str) -> usize {
        let settings = read(&self.path).ok().and_then(|bytes| understand(&bytes).ok()).unwrap_or_default();
        let server = cli.find_subcommand(kind);
        settings.iter().filter(|(name, _)| server.is_some_and(|server| definition(server, name).is_some())).count()
    }
}

/// The content of a regular file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let problem = |error: io::Error| {
        ConfigError::Unreadable(match error.kind() {
            ErrorKind::NotFound => "there is no such file".into(),
            ErrorKind::PermissionDenied => "no permission to read it".into(),
            _ => format!("cannot read it: {}", Reason(&error)),
        })
    };
    let invalid = |message: &str| Err(ConfigError::Invalid(message.into()));
    let is_directory = || invalid("it is a directory; name a file in it");
    let file = match open(path) {
        // Windows does not open directories.
        Err(_) if path.is_dir() => return is_directory(),
        file => file.map_err(problem)?,
    };
    // Of the opened file: its path may lead to another one by now.
    let metadata = file.metadata().map_err(problem)?;
    if metadata.is_dir() {
        return is_directory();
    }
    if !metadata.is_file() {
        return invalid("it is no regular file, which could be read again at each restart");
    }
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH as u64 + 1).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() > MAX_LENGTH {
        return invalid(&format!("it is longer than {} KiB; is it the right file?", MAX_LENGTH / 1024));
    }
    Ok(bytes)
}

/// Opens a file without waiting: opening a pipe would hold up a restart until a process writes to it.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)
}

#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// The settings in the order of the file, each once.
pub(super) fn understand(bytes: &[u8]) -> Result<Vec<(String, Value)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8; save it as UTF-8 text")?;
    // Editors on Windows put a byte order mark there.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(r#"it is empty; say at least {}"#.into());
    }
    let members: Members = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    members.each_once().map_err(|name| format!("{} is there twice; keep one", quoted(&name)))
}

/// The message of serde_json, for people.
fn syntax(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    let what = match (error.classify(), text) {
        (Category::Data, _) => return r#"it is not a JSON object; say, for example, {"grace": 5}"#.into(),
        (Category::Eof, _) => return text.replace("EOF while parsing", "it ends in the middle of"),
        (_, "expected value" | "expected ident") => {
            "expected a value: a number, a text in quotes, true or false".into()
        }
        (_, "key must be a string") => "the name of a setting stands in double quotes".into(),
        (_, "trailing comma") => "a comma with nothing behind it".into(),
        (_, "trailing characters") => "there is more behind the end of the object".into(),
        (_, "invalid escape") => r"a backslash in a text is written as two: \\".into(),
        _ => text.replace('`', "'"),
    };
    format!("line {line}, column {column}: {what}")
}

/// What a file stands for on a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) options: Vec<OsString>,
    /// The program of `exec` and its arguments, if the file has them.
    pub(super) program: Vec<OsString>,
}

/// The settings as arguments.
pub(super) fn translate(
    settings: &[(String, Value)],
    directory: &Path,
    cli: &Command,
    kind: &str,
    has_dir: bool,
) -> Result<Arguments, String> {
    let server = cli.find_subcommand(kind).ok_or_else(|| format!("there is no server {kind}"))?;
    let mut arguments = Arguments::default();
    for (name, value) in settings {
        let definition = definition(server, name).ok_or_else(|| unknown(name, cli, server))?;
        if has_nul(value) {
            return Err(format!("{} has a NUL character (\\u0000); leave it out", quoted(name)));
        }
        if definition.is_trailing_var_arg_set() {
            arguments.program = program(name, value)?;
            continue;
        }
        for value in values(definition, value) {
            let Some(argument) = argument(definition, value, directory)? else { continue };
            let alone = [cli.get_name().into(), kind.into(), argument.clone()].into_iter().chain(not_in_a_file(server));
            if let Err(error) = cli.clone().try_get_matches_from(alone) {
                return Err(format!("{} is {}: {}", quoted(name), describe(value), advice(&error)));
            }
            if !(definition.is_positional() && has_dir) {
                arguments.options.push(argument);
            }
        }
    }
    Ok(arguments)
}

/// A program and its arguments.
fn program(name: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let word = |value: &Value| match value {
        Value::String(text) => Some(text.into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let words = match value {
        Value::Array(words) => words.iter().map(word).collect(),
        // A text with spaces is meant for a shell.
        Value::String(text) if !text.contains(char::is_whitespace) => Some(vec![text.into()]),
        _ => None,
    };
    let words: Option<Vec<OsString>> = words.filter(|words: &Vec<OsString>| !words.is_empty());
    if words.iter().flatten().next().is_some_and(|program| program.is_empty()) {
        return Err(format!(r#"{} begins with an empty name; say what to run: ["./server"]"#, quoted(name)));
    }
    words.ok_or_else(|| format!(r#"{} is {}; say a list: ["./server", "--fast"]"#, quoted(name), describe(value)))
}

/// No argument, variable or path can have one.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// Stands in for a program where the command line needs one and any will do.
pub(super) fn not_in_a_file(server: &Command) -> Vec<OsString> {
    let has_program = server.get_arguments().any(Arg::is_trailing_var_arg_set);
    if has_program { vec!["--".into(), "program".into()] } else { Vec::new() }
}

/// What can be set in a file for this server.
pub(super) fn definitions(server: &Command) -> impl Iterator<Item = &Arg> {
    server.get_arguments().filter(|definition| definition.get_id() != "config")
}

/// The definition that has this name in a file.
fn definition<'a>(server: &'a Command, name: &str) -> Option<&'a Arg> {
    definitions(server).find(|definition| setting(definition) == name)
}

/// The name of a setting in a file.
pub(super) fn setting(definition: &Arg) -> &str {
    definition.get_long().unwrap_or(definition.get_id().as_str())
}

/// Whether this may be given more than once.
fn takes_several(definition: &Arg) -> bool {
    matches!(definition.get_action(), ArgAction::Append)
}

/// The values of a setting. Several are a list.
fn values<'a>(definition: &Arg, value: &'a Value) -> &'a [Value] {
    match value {
        Value::Array(values) if takes_several(definition) => values,
        one => std::slice::from_ref(one),
    }
}

/// One setting as an argument. None: a flag that is not given.
fn argument(definition: &Arg, value: &Value, directory: &Path) -> Result<Option<OsString>, String> {
    let name = setting(definition);
    let wrong = |say: &str| Err(format!("{} is {}; say {say}", quoted(name), describe(value)));
    if !definition.get_action().takes_values() {
        return match value {
            Value::Bool(given) => Ok(given.then(|| format!("--{name}").into())),
            _ => wrong("true or false"),
        };
    }
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ if takes_several(definition) => return wrong("a number, a text or a list of these"),
        _ => return wrong("a number or a text"),
    };
    // A path is relative to the file's directory, and so it never begins with a hyphen. An empty one stays wrong.
    let is_path = definition.get_value_hint() == ValueHint::AnyPath && !text.is_empty();
    let text = if is_path { directory.join(text).into_os_string() } else { text.into() };
    if definition.is_positional() {
        return Ok(Some(text));
    }
    let mut argument = OsString::from(format!("--{name}="));
    argument.push(text);
    Ok(Some(argument))
}

/// The message about a setting that this server does not have.
fn unknown(name: &str, cli: &Command, server: &Command) -> String {
    if name == "config" {
        return r#""config" cannot be said in a file, only on the command line"#.into();
    }
    if let Some(other) = cli.get_subcommands().find(|server| definition(server, name).is_some()) {
        return format!("{} is a setting of {}, not of {}", quoted(name), other.get_name(), server.get_name());
    }
    // Clap knows similar names.
    let asked = cli.clone().try_get_matches_from([cli.get_name(), server.get_name(), &format!("--{name}")]);
    let near = asked.as_ref().err().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(near)) => near.strip_prefix("--"),
        _ => None,
    });
    let mut all: Vec<_> = definitions(server).map(setting).collect();
    all.sort_unstable();
    let hint = match near.filter(|near| all.contains(near)) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("{} has {}", server.get_name(), listed(&all, "and")),
    };
    format!("there is no setting {}; {hint}", quoted(name))
}

/// What to say about a value that clap does not accept.
fn advice(error: &clap::Error) -> String {
    match (error.get(ContextKind::ValidValue), error.source()) {
        (Some(ContextValue::Strings(words)), _) if !words.is_empty() => format!("say {}", listed(words, "or")),
        (_, Some(source)) => source.to_string(),
        (_, None) if error.kind() == clap::error::ErrorKind::InvalidValue => "it cannot be empty".into(),
        (_, None) => ConfigError::clap(error).to_string(),
    }
}

/// A value as in the file, or what kind of value it is.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(values) if values.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) => quoted(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text as in JSON, cut off if it is very long.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => Value::from(format!("{}…", &text[..end])).to_string(),
        None => Value::from(text).to_string(),
    }
}
