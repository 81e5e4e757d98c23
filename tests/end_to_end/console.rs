//! Enter, Ctrl-C and Ctrl-Z on a real terminal.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::process::threads;
use crate::pty::{CTRL_C, CTRL_D, CTRL_Z, ENTER, Job, Shell, is_in_foreground, is_stopped, stat};
use crate::support::{Client, HUGE, Home, SUPERVISOR, eventually, free_port};

#[test]
fn the_log_says_that_enter_stops_only_where_somebody_can_press_it() {
    let home = Home::new();
    let (instance, _pty) = home.start_on_terminal(&["echo"]);
    assert!(instance.err.wait_for("listening").contains("press Enter to stop"));
    let home = Home::new();
    let instance = home.start(&["echo"]);
    assert!(!instance.err.wait_for("listening").contains("Enter"));
}

/// A pipe gets the whole time, in UTC.
#[test]
fn on_a_terminal_the_first_line_fits_and_has_a_link() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let (line, _) = shell.supervisor("http");
    let (line, _into_a_file) = line.split_once(" 2>").unwrap();
    shell.begin(line);
    eventually("it is ready", || shell.pty.screen().contains("press Enter to stop"));
    let screen = shell.pty.screen();
    let first = screen.lines().find(|line| line.contains("press Enter")).unwrap();
    // Only a line feed ends the line that the shell has typed.
    assert!(first.trim_end().len() <= 80 && first.contains("listening on http://127.0.0.1:"), "{first:?}");
    let time = first.split_once(" listening").unwrap().0;
    assert!(time.len() == 8 && time.split(':').count() == 3, "{first}");
    shell.pty.press(ENTER);
    eventually("it stops", || shell.pty.screen().contains("stopped in"));
}

#[test]
fn a_second_enter_closes_the_rest_at_once() {
    let home = Home::new();
    let (instance, pty) = home.start_on_terminal(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    pty.press(ENTER);
    let line = instance.err.wait_for("Enter: stopping, 1 client");
    assert!(line.ends_with("; press Enter again to force"), "{line}");
    instance.wait_for_countdown();
    pty.press(ENTER);
    assert_eq!(instance.wait(), 5);
    assert!(instance.log().contains("Enter: closing 1 client now"), "{}", instance.log());
}

#[test]
fn what_is_typed_without_enter_is_no_enter() {
    let home = Home::new();
    let (instance, pty) = home.start_on_terminal(&["echo", "--grace", HUGE]);
    pty.press("hello");
    instance.assert_serves();
    assert!(!instance.err.so_far().contains("stopping"));
    pty.press(ENTER);
    assert_eq!(instance.wait(), 0);
}

/// Waits until stdin is no longer read: everything that was written to it has been processed.
fn wait_for_end_of_console(pid: u32) {
    eventually("the console thread has ended", || !threads(pid).iter().any(|(name, _)| name == "console"));
}

#[test]
fn the_end_of_stdin_is_not_enter() {
    let home = Home::new();
    let instance = home.start(&["echo", "--console", "stdin"]); // From /dev/null.
    wait_for_end_of_console(instance.pid);
    instance.assert_serves();
    drop(instance);

    let mut command = home.supervisor(&["echo", "--console", "stdin"]);
    command.stdin(Stdio::piped());
    let instance = home.start_by(command);
    drop(instance.stdin.lock().unwrap().take());
    wait_for_end_of_console(instance.pid);
    instance.assert_serves();
    assert!(!instance.err.so_far().contains("stopping"), "{}", instance.err.so_far());
}

/// A file is non-blocking for all processes that share it, so another one can have made it so.
#[test]
fn a_non_blocking_stdin_is_listened_to_as_any_other() {
    let home = Home::new();
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut command = home.supervisor(&["echo", "--console", "stdin"]);
    command.stdin(reader);
    let instance = home.start_by(command);
    eventually("it waits for input", || threads(instance.pid).contains(&("console".into(), "S".into())));
    writer.write_all(b"\n").unwrap();
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("Enter: stopping"), "{}", instance.log());
}

/// Runs a script, in which `$supervisor` is one that ends by itself.
fn script(home: &Home, script: &str) -> Command {
    let mut command = home.program("bash");
    let supervisor = format!("{SUPERVISOR} exec --name {} --restart never -- sleep 0.5", home.name());
    command.args(["-c", script]).env("supervisor", supervisor);
    command
}

#[test]
fn a_list_that_a_loop_reads_is_left_to_it() {
    let home = Home::new();
    let list = home.directory().join("list");
    std::fs::write(&list, "one\ntwo\nthree\n").unwrap();
    let loops = format!("while read -r site; do $supervisor; echo \"$? $site\"; done < {}", list.display());
    let ended = home.run(script(&home, &loops)).expect(0);
    assert_eq!(ended.out, "0 one\n0 two\n0 three\n", "{ended}");
    assert!(!ended.err.contains("Enter"), "{ended}");
}

#[test]
fn a_script_that_comes_through_a_pipe_is_read_by_its_shell_to_the_end() {
    let home = Home::new();
    // In pieces, as over a network: the shell itself reads a pipe byte by byte.
    let pipe = "(echo '$supervisor; echo \"ended $?\"'; sleep 0.2; echo; echo 'echo the rest') | bash";
    let ended = home.run(script(&home, pipe)).expect(0);
    assert_eq!(ended.out, "ended 0\nthe rest\n", "{ended}");
    assert!(!ended.err.contains("Enter"), "{ended}");
}

#[test]
fn ctrl_d_is_not_enter_and_enter_still_works_after_it() {
    let home = Home::new();
    let (instance, pty) = home.start_on_terminal(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    pty.press(CTRL_D);
    instance.assert_serves();
    pty.press(CTRL_D);
    pty.press("\n");
    client.assert_told();
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn two_enters_at_once_are_one_decision() {
    let home = Home::new();
    let (instance, pty) = home.start_on_terminal(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    pty.press("\n\n");
    client.assert_told();
    instance.wait_for_countdown();
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_closed_stdin_does_not_keep_it_from_serving() {
    let home = Home::new();
    let instance = home.start_by(home.supervisor_by(&["sh", "-c", "exec \"$0\" \"$@\" <&-"], &["echo"]));
    instance.assert_serves();
}

#[test]
fn a_terminal_that_is_closed_is_sighup_and_stops_gracefully() {
    let home = Home::new();
    let (instance, pty) = home.start_on_terminal(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    drop(pty);
    client.assert_told();
    drop(client);
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("SIGHUP: stopping"), "{}", instance.log());
}

/// Asserts that it serves and keeps serving: a program that reads from its terminal in the background is stopped.
fn assert_serves_in_background(job: &Job) {
    let pid = job.pid();
    job.assert_serves();
    assert!(!is_in_foreground(pid));
    // It is woken by every key, including those that are not for it.
    eventually("all its threads wait", || threads(pid).iter().all(|(_, state)| state == "S"));
    assert!(!is_stopped(pid), "it was suspended");
    job.assert_serves();
}

#[test]
fn in_the_background_it_goes_on_serving_and_in_the_foreground_enter_stops_it() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let (line, job) = shell.supervisor("echo");
    shell.run(&format!("{line} &"));
    assert_serves_in_background(&job);
    // These lines are for the shell.
    for _ in 0..3 {
        shell.run("");
        shell.run("true");
    }
    assert_serves_in_background(&job);
    assert!(!job.log().contains("stopping"), "{}", job.log());

    shell.begin("fg");
    eventually("it is in the foreground", || is_in_foreground(job.pid()));
    shell.pty.press(ENTER);
    job.wait_for("Enter: stopping");
    job.wait_for("stopped in");
    shell.wait_for_prompt();
}

#[test]
fn in_the_foreground_again_ctrl_c_stops_it() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let (line, job) = shell.supervisor("echo");
    shell.run(&format!("{line} &"));
    assert_serves_in_background(&job);
    shell.begin("fg");
    eventually("it is in the foreground", || is_in_foreground(job.pid()));
    shell.pty.press(CTRL_C);
    job.wait_for("SIGINT: stopping");
    job.wait_for("stopped in");
}

#[test]
fn ctrl_c_for_another_program_does_not_stop_it_in_the_background() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let (line, job) = shell.supervisor("echo");
    shell.run(&format!("{line} &"));
    let pid = job.pid();
    shell.begin("cat");
    eventually("another program is in the foreground", || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", stat(pid, 8)));
        name.is_ok_and(|name| name.trim() == "cat")
    });
    shell.pty.press(CTRL_C);
    shell.wait_for_prompt();
    assert_serves_in_background(&job);
    shell.run(&format!("kill {pid}"));
    job.wait_for("stopped in");
}

#[test]
fn after_ctrl_z_and_bg_it_goes_on_serving_and_after_fg_enter_stops_it() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let (line, job) = shell.supervisor("echo");
    shell.begin(&line);
    let pid = job.pid();
    eventually("it is in the foreground", || is_in_foreground(pid));
    for _ in 0..2 {
        shell.pty.press(CTRL_Z);
        eventually("it is suspended", || is_stopped(pid));
        shell.wait_for_prompt();
        shell.run("bg");
        eventually("it is continued", || !is_stopped(pid));
        assert_serves_in_background(&job);
        shell.run("true");
        assert_serves_in_background(&job);
        shell.begin("fg");
        eventually("it is in the foreground", || is_in_foreground(pid));
    }
    assert!(!job.log().contains("stopping"), "{}", job.log());
    shell.pty.press(ENTER);
    job.wait_for("Enter: stopping");
    job.wait_for("stopped in");
}

#[test]
fn a_program_that_wants_the_terminal_is_suspended_and_that_is_logged() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let (line, job) = shell.exec("", "sh -c 'read line < /dev/tty'");
    shell.begin(&line);
    job.wait_for("was suspended by SIGTTIN; `kill -CONT ");
    job.wait_for("running (pid ");
    shell.pty.press(CTRL_C);
    job.wait_for("SIGINT: stopping");
    job.wait_for("stopped in");
    shell.wait_for_prompt();
}

#[test]
fn ctrl_z_suspends_the_supervisor_of_a_program_and_the_program_goes_on() {
    let home = Home::new();
    let shell = Shell::start(&home);
    let port = free_port();
    let (line, job) = shell.exec(&format!("--listen {port} --ready notify"), env!("CARGO_BIN_EXE_version-1"));
    shell.begin(&line);
    let pid = job.pid();
    eventually("it is in the foreground", || is_in_foreground(pid));
    shell.pty.press(CTRL_Z);
    eventually("it is suspended", || is_stopped(pid));
    shell.wait_for_prompt();
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.send("hello\n");
    client.expect("version_1 0.1.0: hello\n");
    // The signal arrives as soon as it is continued.
    shell.run(&format!("kill {pid}"));
    shell.run("bg");
    client.assert_told();
    drop(client);
    job.wait_for("SIGTERM");
    job.wait_for("stopped in");
}

#[test]
fn a_log_that_is_written_to_the_terminal_in_the_background_does_not_suspend_it() {
    let home = Home::new();
    let shell = Shell::start(&home);
    // The terminal stops background programs that write to it.
    shell.run("stty tostop");
    let (line, _) = shell.supervisor("echo");
    let (line, _into_a_file) = line.split_once(" 2>").unwrap();
    shell.begin(&format!("{line} &"));
    eventually("it writes to the terminal", || shell.pty.screen().contains("listening on 127"));
    home.admin(&["--name", home.name(), "ping"]).expect(0);
    // Input there is for the shell.
    assert!(!shell.pty.screen().contains("press Enter"), "{}", shell.pty.screen());
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    eventually("it writes to the terminal", || shell.pty.screen().contains("stopped in"));
}
