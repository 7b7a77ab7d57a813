//! The text of systemd's units. Pure.
//!
//! `systemd.exec(5)` says what each line forbids. Left out is what a docker CLI may need, and for a
//! user's own manager also what takes privileges to set up.

use std::path::Path;

/// What runs, as whom.
#[derive(Debug, Clone, Copy)]
pub struct Install<'a> {
    pub executable: &'a Path,
    pub home: &'a Path,
    /// The id of the home's owner for the system's manager; a user's own manager needs none.
    pub user: Option<u32>,
    /// Where the engine is, when not where its CLI looks.
    pub docker_host: Option<&'a str>,
}

/// When it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// The daemon, always.
    Always,
    /// `nanoclaw sweep`, every minute.
    EveryMinute,
}

impl Schedule {
    /// The unit that is enabled.
    pub fn unit(self) -> &'static str {
        match self {
            Schedule::Always => "nanoclaw.service",
            Schedule::EveryMinute => "nanoclaw-sweep.timer",
        }
    }
}

/// Every file there may be.
pub const FILES: [&str; 3] = ["nanoclaw.service", "nanoclaw-sweep.service", "nanoclaw-sweep.timer"];

const DAEMON: &str = include_str!("daemon.conf");
/// Held by a daemon, or work left for the next one, is no failure.
const CYCLE: &str = include_str!("cycle.conf");
/// The CLI's processes count too, and end after us. Ours waits for at most ten seconds.
const LIMITS: &str = include_str!("limits.conf");
/// No ProtectClock: it also forbids to ask whether the clock is set (systemd issue 26413).
const SYSTEM_LIMITS: &str = include_str!("system-limits.conf");
const TIMER: &str = include_str!("nanoclaw-sweep.timer");

/// Names and texts of the files.
pub fn files(install: &Install<'_>, schedule: Schedule) -> Vec<(&'static str, String)> {
    match schedule {
        Schedule::Always => {
            let wanted_by = if install.user.is_some() { "multi-user.target" } else { "default.target" };
            let service = service(install, DAEMON, "run") + &format!("\n[Install]\nWantedBy={wanted_by}\n");
            vec![("nanoclaw.service", service)]
        }
        Schedule::EveryMinute => vec![
            ("nanoclaw-sweep.service", service(install, CYCLE, "sweep")),
            ("nanoclaw-sweep.timer", TIMER.to_owned()),
        ],
    }
}

fn service(install: &Install<'_>, kind: &str, command: &str) -> String {
    let home = quoted(&install.home.display().to_string());
    let mut text = "[Unit]\nDescription=nanoclaw, a personal assistant\nStartLimitIntervalSec=0\n".to_owned();
    if install.user.is_some() {
        text += "Wants=docker.service network-online.target\nAfter=docker.service network-online.target\n";
    }
    let executable = quoted(&install.executable.display().to_string());
    let start = format!("{executable} --home {home} {command}").replace('$', "$$");
    text += &format!("\n[Service]\nExecStart={start}\n{kind}");
    if let Some(address) = install.docker_host {
        text += &format!("Environment={}\n", quoted(&format!("DOCKER_HOST={address}")));
    }
    text += LIMITS;
    if let Some(user) = install.user {
        text += &format!("User={user}\nReadWritePaths={home}\n{SYSTEM_LIMITS}");
    }
    text
}

/// One word, whatever is in it.
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('%', "%%");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `systemd.unit(5)`, `.service(5)`, `.exec(5)`, `.kill(5)`, `.resource-control(5)` and
    /// `.timer(5)` know under these names. RestartSteps and RestartMaxDelaySec are of version 254; older ones ignore them.
    const KEYS: [(&str, &str); 4] = [
        ("[Unit]", "Description Wants After StartLimitIntervalSec"),
        (
            "[Service]",
            "Type NotifyAccess WatchdogSec Restart RestartSec RestartSteps RestartMaxDelaySec RestartPreventExitStatus \
             ExecStart ExecReload SuccessExitStatus TimeoutStartSec TimeoutStopSec KillMode OOMPolicy MemoryHigh \
             MemoryMax User Environment ReadWritePaths NoNewPrivileges LockPersonality RestrictRealtime RestrictSUIDSGID \
             SystemCallArchitectures ProtectSystem PrivateTmp ProtectControlGroups ProtectHostname \
             ProtectKernelLogs ProtectKernelModules ProtectKernelTunables RestrictNamespaces RestrictAddressFamilies",
        ),
        ("[Timer]", "OnCalendar AccuracySec"),
        ("[Install]", "WantedBy"),
    ];

    fn install(user: Option<u32>) -> Install<'static> {
        Install {
            executable: Path::new("/usr/local/bin/nanoclaw"),
            home: Path::new("/srv/my home/100%"),
            user,
            docker_host: Some("unix:///run/user/7/docker.sock"),
        }
    }

    #[test]
    fn every_line_is_one_that_systemd_knows_in_its_section() {
        for (user, schedule) in [(Some(0), Schedule::Always), (None, Schedule::EveryMinute)] {
            for (name, text) in files(&install(user), schedule) {
                assert!(FILES.contains(&name));
                let mut keys = "";
                for line in text.lines().filter(|l| !l.is_empty()) {
                    if line.starts_with('[') {
                        keys = KEYS.iter().find(|(section, _)| *section == line).expect(line).1;
                        continue;
                    }
                    let (key, value) = line.split_once('=').expect(line);
                    assert!(keys.split(' ').any(|k| k == key) && !value.is_empty(), "{name}: {line}");
                }
            }
        }
    }

    #[test]
    fn the_daemon_of_the_system() {
        let expected = "[Unit]
Description=nanoclaw, a personal assistant
StartLimitIntervalSec=0
Wants=docker.service network-online.target
After=docker.service network-online.target

[Service]
ExecStart=\"/usr/local/bin/nanoclaw\" --home \"/srv/my home/100%%\" run
Type=notify
NotifyAccess=main
WatchdogSec=180
Restart=on-failure
RestartSec=5
RestartSteps=4
RestartMaxDelaySec=60
RestartPreventExitStatus=2
ExecReload=/bin/kill -HUP $MAINPID
Environment=\"DOCKER_HOST=unix:///run/user/7/docker.sock\"
KillMode=mixed
TimeoutStopSec=15
OOMPolicy=continue
MemoryHigh=384M
MemoryMax=512M
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
User=1000
ReadWritePaths=\"/srv/my home/100%%\"
ProtectSystem=strict
PrivateTmp=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
";
        assert_eq!(files(&install(Some(1000)), Schedule::Always), [("nanoclaw.service", expected.to_owned())]);
    }

    #[test]
    fn the_timer_of_a_user() {
        let [(_, service), (_, timer)] = files(&install(None), Schedule::EveryMinute).try_into().unwrap();
        let service_of_a_user = "[Unit]
Description=nanoclaw, a personal assistant
StartLimitIntervalSec=0

[Service]
ExecStart=\"/usr/local/bin/nanoclaw\" --home \"/srv/my home/100%%\" sweep
Type=oneshot
SuccessExitStatus=3 4
TimeoutStartSec=180
Environment=\"DOCKER_HOST=unix:///run/user/7/docker.sock\"
";
        assert_eq!((service, timer.as_str()), (service_of_a_user.to_owned() + LIMITS, TIMER));
        assert!(timer.contains("OnCalendar=minutely"));
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(quoted("/a \"b\" \\ 5%"), r#""/a \"b\" \\ 5%%""#);
        let odd = Install { home: Path::new("/$HOME"), ..install(None) };
        assert!(service(&odd, CYCLE, "sweep").contains("--home \"/$$HOME\" sweep"));
    }
}
