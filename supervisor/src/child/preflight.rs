//! Checks of a program before it is started: whether its directory, its file and its interpreter exist.
//!
//! The same checks explain why a program could not be started.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::program::{CannotStart, NOT_FOUND, NOT_RUN, Program, not_found};
use crate::settings::Part;
use crate::text::Reason;

impl Program {
    /// Whether it can be started, as far as that can be known in advance.
    ///
    /// # Errors
    /// If not, why.
    pub fn check(&self) -> Result<(), CannotStart> {
        self.check_directory()?;
        self.file().map(drop)
    }

    /// Whether the directory in which it would start exists.
    ///
    /// # Errors
    /// If not, why.
    pub fn check_directory(&self) -> Result<(), CannotStart> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let shown = directory.display();
        let message = match fs::metadata(directory) {
            Ok(metadata) if !metadata.is_dir() => format!("{shown} is not a directory"),
            Ok(_) if may_execute(directory) => return Ok(()),
            Ok(_) => format!("no permission to enter {shown}"),
            Err(error) if error.kind() == ErrorKind::NotFound => format!("there is no directory {shown}"),
            Err(error) => format!("cannot start in {shown}: {}", Reason(&error)),
        };
        Err(CannotStart { code: NOT_RUN, message })
    }

    /// What it consists of at this moment: a restart reports which of these parts have changed.
    pub(super) fn parts(&self) -> Vec<Part> {
        let part = |name: &str, value| Part { name: name.into(), value, secret: false };
        let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut parts = Vec::new();
        if let Ok(file) = self.file() {
            let file = canonical(&file);
            let of_what = fs::metadata(&file).map(|metadata| {
                let changed = metadata.modified().map(humantime::format_rfc3339_seconds);
                format!(" ({} bytes{})", metadata.len(), changed.map(|at| format!(", {at}")).unwrap_or_default())
            });
            parts.push(part("program", format!("{}{}", file.display(), of_what.unwrap_or_default())));
        }
        let args: Vec<_> = self.args.iter().map(|argument| argument.display().to_string()).collect();
        if !args.is_empty() {
            parts.push(part("arguments", args.join(" ")));
        }
        parts.extend(self.directory.as_ref().map(|path| part("directory", canonical(path).display().to_string())));
        let variables: BTreeMap<_, _> = self.environment.iter().map(|(name, value)| (name, value)).collect();
        parts.extend(variables.into_iter().map(|(name, value)| Part {
            name: format!("variable {name}"),
            value: value.clone(),
            secret: true,
        }));
        parts
    }

    /// The file that would be run, as a path that is valid in this process's directory.
    ///
    /// # Errors
    /// When there is none that can be run.
    #[cfg(unix)]
    pub(super) fn file(&self) -> Result<PathBuf, CannotStart> {
        find(&self.program, self.directory.as_deref().unwrap_or(Path::new("")), &self.environment)
    }

    /// The system looks for a name without a directory, in an order of its own.
    #[cfg(windows)]
    pub(super) fn file(&self) -> Result<PathBuf, CannotStart> {
        let path = self.path();
        let is_there = |path: &Path| path.is_file() || path.with_added_extension("exe").is_file();
        let is_path = Path::new(&self.program).components().count() > 1;
        match () {
            () if !is_path || is_there(&path) => Ok(path),
            () if path.is_dir() => Err(self.cannot(NOT_RUN, "is a directory")),
            () => Err(self.cannot(NOT_FOUND, not_found(&self.program))),
        }
    }

    /// A path resolved against the directory in which it starts, or a bare name to be searched for: Windows would
    /// resolve a relative path against the supervisor's directory.
    #[cfg(windows)]
    pub(super) fn path(&self) -> PathBuf {
        let path = Path::new(&self.program);
        match &self.directory {
            Some(directory) if path.components().count() > 1 => directory.join(path),
            Some(_) | None => path.into(),
        }
    }

    #[cfg(windows)]
    pub(super) fn cannot(&self, code: u8, why: &str) -> CannotStart {
        CannotStart { code, message: format!("{}: {why}", self.program.display()) }
    }
}

#[cfg(unix)]
pub(super) use unix::{find, may_execute};

#[cfg(unix)]
mod unix {
    use std::env;
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use rustix::fs::{Access, AtFlags, CWD, accessat};

    use super::{CannotStart, NOT_FOUND, NOT_RUN, not_found};

    /// Where to look for programs without a `PATH`.
    const DEFAULT_PATH: &str = "/bin:/usr/bin";

    /// How many bytes of a file the system reads to find its interpreter.
    const FIRST_LINE: usize = 256;

    /// The file that is run for a program that starts in this directory, with these variables in addition to those of
    /// this process.
    pub(in crate::child) fn find(
        program: &OsStr,
        directory: &Path,
        variables: &[(String, String)],
    ) -> Result<PathBuf, CannotStart> {
        let own = variables.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.into());
        let path = own.or_else(|| env::var_os("PATH")).unwrap_or_else(|| DEFAULT_PATH.into());
        let cannot = |(code, why): (u8, String)| CannotStart { code, message: format!("{}: {why}", program.display()) };
        let file = look_for(program, directory, &path).map_err(cannot)?;
        check_interpreter(&file, directory, &path).map_err(cannot)?;
        Ok(file)
    }

    /// Like execvp(3): a name that is not a path is searched for in the directories of `PATH`.
    fn look_for(program: &OsStr, directory: &Path, path: &OsStr) -> Result<PathBuf, (u8, String)> {
        if program.as_bytes().contains(&b'/') {
            let file = directory.join(program);
            return match executable(&file) {
                Ok(()) => Ok(file),
                Err((NOT_FOUND, _)) => Err((NOT_FOUND, not_found(program).into())),
                Err(other) => Err(other),
            };
        }
        let mut problem = (NOT_FOUND, not_found(program).into());
        for place in env::split_paths(path).filter(|_| !program.is_empty()) {
            let file = directory.join(place).join(program);
            match executable(&file) {
                Ok(()) => return Ok(file),
                // A file that is not executable is skipped, and is the reason only if no other file is found.
                Err((NOT_FOUND, _)) => {}
                Err(_) if file.is_dir() => {}
                Err(other) => problem = other,
            }
        }
        Err(problem)
    }

    fn executable(file: &Path) -> Result<(), (u8, String)> {
        let Ok(metadata) = fs::metadata(file) else { return Err((NOT_FOUND, "not found".into())) };
        match () {
            () if metadata.is_dir() => Err((NOT_RUN, "is a directory".into())),
            () if metadata.is_file() && may_execute(file) => Ok(()),
            () => Err((NOT_RUN, "not executable, or not permitted".into())),
        }
    }

    pub(in crate::child) fn may_execute(file: &Path) -> bool {
        accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    }

    /// Checks that the interpreter of a script exists and, if it is `env`, the program that `env` has to look for.
    fn check_interpreter(script: &Path, directory: &Path, path: &OsStr) -> Result<(), (u8, String)> {
        let Some((interpreter, argument)) = interpreter(script) else { return Ok(()) };
        let missing = |name: &OsStr, why| (NOT_RUN, format!("its interpreter {}: {why}", name.display()));
        executable(&directory.join(&interpreter)).map_err(|(_, why)| missing(&interpreter, why))?;
        match looked_for_by_env(&interpreter, &argument) {
            Some(name) => look_for(name, directory, path).map(drop).map_err(|(_, why)| missing(name, why)),
            None => Ok(()),
        }
    }

    /// The interpreter in the first line of a script, and the rest of that line.
    fn interpreter(script: &Path) -> Option<(OsString, OsString)> {
        let mut beginning = Vec::new();
        // An unreadable file can still be run, unless it is a script.
        File::open(script).ok()?.take(FIRST_LINE as u64).read_to_end(&mut beginning).ok()?;
        let line = beginning.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (interpreter, argument) = line.split_at(end);
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes.trim_ascii()).to_owned();
        (!interpreter.is_empty()).then(|| (text(interpreter), text(argument)))
    }

    /// The program in `#!/usr/bin/env node` or `#!/usr/bin/env -S node --fast`. None: the line asks something else of
    /// `env`.
    fn looked_for_by_env<'a>(interpreter: &OsStr, argument: &'a OsStr) -> Option<&'a OsStr> {
        if Path::new(interpreter).file_name() != Some(OsStr::new("env")) {
            return None;
        }
        let argument = argument.as_bytes();
        let words = argument.strip_prefix(b"-S").unwrap_or(argument).trim_ascii();
        let name = words.split(u8::is_ascii_whitespace).next()?;
        let is_name = !name.is_empty() && !name.starts_with(b"-") && !name.contains(&b'=') && !name.contains(&b'"');
        is_name.then(|| OsStr::from_bytes(name))
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        #[test]
        fn what_env_looks_for_is_found_in_the_first_line() {
            for (interpreter, argument, expected) in [
                ("/usr/bin/env", "node", Some("node")),
                ("/usr/bin/env", "-S node --fast", Some("node")),
                ("/usr/bin/env", "-i node", None),
                ("/usr/bin/env", "A=1 node", None),
                ("/usr/bin/env", "", None),
                ("/usr/bin/python3", "node", None),
            ] {
                let found = looked_for_by_env(OsStr::new(interpreter), OsStr::new(argument));
                assert_eq!(found, expected.map(OsStr::new), "{interpreter} {argument}");
            }
        }

        #[test]
        fn a_script_names_its_interpreter_and_a_binary_none() {
            let file = env::temp_dir().join(format!("mastercontrol-preflight-{}", std::process::id()));
            for (text, expected) in [
                ("#! /bin/sh -e \necho", Some(("/bin/sh", "-e"))),
                ("#!/bin/sh", Some(("/bin/sh", ""))),
                ("#!\n/bin/sh", None),
                ("\x7fELF#!/bin/sh", None),
                ("", None),
            ] {
                fs::write(&file, text).unwrap();
                let expected = expected.map(|(interpreter, argument)| (interpreter.into(), argument.into()));
                assert_eq!(interpreter(&file), expected, "{text:?}");
            }
            fs::remove_file(file).unwrap();
        }
    }
}

/// Windows has no separate permission for this.
#[cfg(windows)]
fn may_execute(_directory: &Path) -> bool {
    true
}
