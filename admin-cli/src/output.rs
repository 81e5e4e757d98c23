//! Data goes to stdout, messages to stderr.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use mastercontrol::cli::Patient;

/// An answer could not be written.
#[derive(Debug)]
pub(crate) struct Unwritten(pub(crate) io::Error);

/// Writes a line of data. A reader that has gone away, as `head` does, is not a failure; a full disk is.
pub(crate) fn data(line: &str) -> Result<(), Unwritten> {
    match try_data(line) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Unwritten(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a line of data that more will follow, as long as there is a reader.
pub(crate) fn try_data(line: &str) -> io::Result<()> {
    let mut stdout = Patient(io::stdout().lock());
    stdout.write_all(whole(line).as_bytes())?;
    stdout.flush()
}

/// Writes a line for people.
pub(crate) fn message(line: &str) {
    let _ = Patient(io::stderr().lock()).write_all(whole(line).as_bytes());
}

/// The line with its end, for a single write: output of other processes, such as the supervisor in the same terminal,
/// must not end up in the middle.
fn whole(line: &str) -> String {
    format!("{line}\n")
}

/// Asks the user at the terminal. None: there is no terminal, or no answer.
pub(crate) fn ask(question: &str) -> Option<String> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let _ = Patient(io::stderr().lock()).write_all(format!("{question} ").as_bytes());
    let mut answer = String::new();
    BufReader::new(Patient(io::stdin().lock())).read_line(&mut answer).ok()?;
    Some(answer.trim().to_owned())
}

/// Lines with columns as wide as their contents.
pub(crate) fn table<const N: usize>(rows: Vec<[String; N]>) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
