//! Shell completions and man pages, from the same definition of a command line as its `--help`.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Command, Subcommand};
pub use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::patient::Patient;
use crate::text::Reason;
use crate::version::version;

/// What both programs can write about themselves.
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Print the completions for a shell
    #[command(after_help = "Examples:
  source <(admin-cli completions bash)     in ~/.bashrc
  source <(admin-cli completions zsh)      in ~/.zshrc, after compinit
  admin-cli completions fish | source      in ~/.config/fish/config.fish
  admin-cli completions powershell | Out-String | Invoke-Expression
                                           in $PROFILE

`supervisor` has its own completions; install them the same way.")]
    Completions {
        /// The shell to generate completions for
        shell: Shell,
    },
    /// Write the man pages, one for the program and one for each of its commands
    #[command(after_help = "Examples:
  admin-cli manual ~/.cargo/share/man/man1      man looks there if ~/.cargo/bin is in PATH
  supervisor manual ~/.cargo/share/man/man1")]
    Manual {
        /// Directory for them; created if it does not exist
        dir: PathBuf,
    },
}

impl Generate {
    /// Writes it for the program with this definition. `complete` adds to the completions what the definition does not
    /// know.
    ///
    /// # Errors
    /// A message for people when it cannot be written.
    pub fn write(self, program: Command, complete: fn(Shell, String) -> String) -> Result<(), String> {
        match self {
            Generate::Completions { shell } => print_completions(shell, program, complete),
            Generate::Manual { dir } => write_pages(&dir, program)
                .map_err(|error| format!("cannot write the man pages into {}: {}", dir.display(), Reason(&error))),
        }
    }
}

fn print_completions(shell: Shell, mut program: Command, complete: fn(Shell, String) -> String) -> Result<(), String> {
    let name = program.get_name().to_owned();
    // Not straight to stdout: failing to write there would be a panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, &name, &mut script);
    if shell == Shell::Bash {
        // For bash, the commands of a program with a hyphen in its name get names that are not looked up:
        // https://github.com/clap-rs/clap/issues/6421
        let (called, looked_for) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
        script = String::from_utf8_lossy(&script).replace(&called, &looked_for).into_bytes();
    }
    let script = complete(shell, String::from_utf8_lossy(&script).into_owned());
    let mut out = Patient(io::stdout().lock());
    match out.write_all(script.as_bytes()).and_then(|()| out.flush()) {
        // The reader may stop early.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write the completions: {}", Reason(&error)))
        }
        _ => Ok(()),
    }
}

fn write_pages(dir: &Path, program: Command) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let source = format!("{} {}", program.get_name(), version());
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()).chain([&program]) {
        // The text after the options becomes separate sections, as in the pages of other programs.
        let man = Man::new(command.clone().after_help(Resettable::Reset)).source(&source);
        let mut page = Vec::new();
        man.render(&mut page)?;
        sections(command).to_writer(&mut page)?;
        fs::write(dir.join(man.get_filename()), page)?;
    }
    Ok(())
}

/// A section for each paragraph after the options of `--help`: its first line is the title.
fn sections(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let (title, lines) = paragraph.split_once(":\n").unwrap_or(("Note", paragraph));
        roff.control("SH", [title.to_uppercase().as_str()]);
        // Lines stay as they are.
        roff.control("nf", []);
        for line in lines.lines() {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        roff.control("fi", []);
    }
    roff
}
