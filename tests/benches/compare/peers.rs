//! Other servers and proxies, with the relevant settings as Debian ships them, and all without logs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::process::{Running, free_port, is_installed, write};

/// nginx as Debian configures it: one worker per core, sendfile, tcp_nopush.
pub fn nginx(directory: &Path, files: &Path) -> Option<Running> {
    run_nginx(directory, files, Queues::Common)
}

/// The same, to serve behind a relay or a proxy.
pub fn nginx_behind(directory: &Path, files: &Path) -> Option<Running> {
    run_nginx(directory, files, Queues::OnePerWorker)
}

fn run_nginx(directory: &Path, files: &Path, queues: Queues) -> Option<Running> {
    let port = free_port();
    let path = directory.join("nginx.conf");
    write(&path, nginx_configuration(directory, files, &port.to_string(), queues));
    is_installed("nginx").then(|| Running::peer(Command::new(NGINX).arg("-c").arg(&path), port))?
}

pub const NGINX: &str = "/usr/sbin/nginx";

/// Where clients wait for nginx to accept them.
#[derive(Debug, Clone, Copy)]
enum Queues {
    /// All workers take from one queue, as in nginx's default configuration. Chance decides whether one of them gets
    /// half of the clients or all, and that determines how long the slowest requests take.
    Common,
    /// Each worker has its own, and the kernel divides the clients among them.
    OnePerWorker,
}

/// The whole configuration of nginx.
fn nginx_configuration(directory: &Path, files: &Path, port: &str, queues: Queues) -> String {
    let (directory, files) = (directory.display(), files.display());
    let reuseport = match queues {
        Queues::Common => "",
        Queues::OnePerWorker => " reuseport",
    };
    format!(
        "daemon off; worker_processes auto; pid {directory}/nginx-{port}.pid; error_log /dev/null crit; user root;
         events {{ worker_connections 10000; }}
         http {{ sendfile on; tcp_nopush on; types_hash_max_size 2048; access_log off; keepalive_requests 1000000000;
                 client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
                 uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
                 server {{ listen 127.0.0.1:{port}{reuseport}; root {files}; }} }}"
    )
}

/// The same behind our relay, which tells it where to listen.
pub fn relayed_nginx(directory: &Path, files: &Path, protocol: &str) -> Running {
    let template = directory.join("relayed-nginx.conf");
    write(&template, nginx_configuration(directory, files, "PORT", Queues::OnePerWorker));
    let template = template.display();
    let script = format!("sed s/PORT/$PORT/g {template} > {template}.$PORT && exec {NGINX} -c {template}.$PORT");
    let arguments = ["exec", "--relay", protocol, "--max-connections", "10000"];
    Running::supervisor_of(&arguments, &["--", "sh", "-c", &script])
}

/// lighttpd as Debian configures it, without its limit on requests per connection.
pub fn lighttpd(directory: &Path, files: &Path) -> Option<Running> {
    let port = free_port();
    let configuration = format!(
        "server.document-root = \"{}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}
         server.max-keep-alive-requests = 1000000000\nserver.max-connections = 9000\nserver.max-fds = 19000\n",
        files.display()
    );
    let path = directory.join("lighttpd.conf");
    write(&path, configuration);
    is_installed("lighttpd").then(|| Running::peer(Command::new("/usr/sbin/lighttpd").arg("-Df").arg(&path), port))?
}

/// HAProxy as Debian configures it, in front of one server.
pub fn haproxy(directory: &Path, mode: &str, server: SocketAddr) -> Option<Running> {
    let port = free_port();
    let configuration = format!(
        "defaults
            mode {mode}
            option dontlognull
            timeout connect 5000
            timeout client 50000
            timeout server 50000
        frontend front
            bind 127.0.0.1:{port}
            default_backend back
        backend back
            server one {server}\n"
    );
    let path = directory.join(format!("haproxy-{mode}.cfg"));
    write(&path, configuration);
    is_installed("haproxy")
        .then(|| Running::peer(Command::new("/usr/sbin/haproxy").arg("-db").arg("-f").arg(&path), port))?
}

/// A typical echo server on tokio.
pub fn tokio() -> Option<Running> {
    let port = free_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    Running::peer(command.arg(TOKIO_ECHO).arg(port.to_string()), port)
}

/// The first argument that makes this program be that server.
pub const TOKIO_ECHO: &str = "--tokio-echo";
