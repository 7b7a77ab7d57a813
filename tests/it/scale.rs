//! Much of everything, and a long time ago.

use std::fs::{self, File};
use std::time::{Duration, Instant, SystemTime};

use nanoclaw::setup::MAIN;
use nanoclaw::store::Session;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::outbound::OutboundDb;

use crate::support::docker::docker;
use crate::support::wait::{now, pass, wait_for};
use crate::support::{Host, process, sqlite};

const SESSIONS: usize = 1_000;
/// The targets say 150 ms; `make bench` measures that. Here it must not be of another order.
const MAX_START: Duration = Duration::from_secs(5);
/// What a thousand idle sessions may cost. A tick is 10 ms.
const MAX_IDLE_TICKS: u64 = 2;
const IDLE: Duration = Duration::from_secs(5);

/// CPU time of a process, its threads included, in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = String::from_utf8(process::read(pid, "stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_thousand_sessions_hold_up_nobody_and_cost_nothing() {
    let mut host = Host::new();
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    let store = host.store();
    let chat = store.find_messaging_group("cli", "local").unwrap().unwrap();
    let model = host.home().session(MAIN, "model");
    model.prepare().unwrap();
    drop((InboundDb::open(&model, Durability::Normal).unwrap(), OutboundDb::open(&model).unwrap()));
    for n in 0..SESSIONS {
        let (id, thread) = (format!("sess-{n}"), format!("thread-{n}"));
        store.ensure_session(&Session::new(&id, MAIN, Some(&chat.id), Some(&thread), now())).unwrap();
        let dir = host.home().session(MAIN, &id);
        dir.prepare().unwrap();
        fs::copy(model.inbound_db(), dir.inbound_db()).unwrap();
        fs::copy(model.outbound_db(), dir.outbound_db()).unwrap();
    }
    drop(store);

    let begun = Instant::now();
    host.start();
    let started = begun.elapsed();
    assert!(started < MAX_START, "{started:?}");
    assert!(host.chat("hello").starts_with("Hello!"));
    println!("ready after {started:?}, answered after {:?}", begun.elapsed());

    // Until the start's own look at every file is over, and the burst's memory given back.
    host.wait_log("Ready", 1);
    pass(IDLE);
    let before = cpu_ticks(host.pid());
    pass(IDLE);
    let ticks = cpu_ticks(host.pid()) - before;
    assert!(ticks <= MAX_IDLE_TICKS, "{ticks} ticks of CPU in {IDLE:?}");
    host.assert_no_complaint();
}

/// A board without a battery clock, or one whose battery is new: what was written last is ten
/// years away. Who writes is answered all the same, also by a successor.
#[test]
fn a_clock_that_jumped_by_ten_years_holds_up_no_message() {
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    for ahead in [false, true] {
        let mut host = Host::started();
        host.chat("hello");
        host.sigterm();
        #[allow(clippy::disallowed_methods)]
        let today = SystemTime::now();
        let then = if ahead { today + TEN_YEARS } else { today - TEN_YEARS };
        File::options().write(true).open(host.home().store()).unwrap().set_modified(then).unwrap();
        host.start();
        let mut client = host.client();
        assert!(client.ask("m2", "second")[0].contains("turn 2"));
        // A retry is no matter of the calendar.
        client.say("m3", "count to 10 slowly");
        let claims = "SELECT message_id FROM processing_ack WHERE status = 'processing'";
        let dir = host.dir();
        wait_for("its claim", &[&dir.out()], || {
            sqlite::column(&dir.outbound_db(), claims).ok().filter(|ids| ids.len() == 1)
        });
        docker(&["kill", "--signal", "KILL", &host.container()]);
        assert!(client.text().ends_with(", 10"));
        host.wait_completed(3);
    }
}
