//! Cron, zones, missed runs, and what of a task is refused.

use super::*;

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

const NOON: &str = "2026-11-21T12:00:00Z";

fn parse(name: &str, arguments: Value) -> Result<Action, String> {
    Action::parse(name, arguments.as_object().unwrap(), "Europe/Berlin")
}

fn plan(arguments: Value) -> Result<Plan, String> {
    let mut arguments = arguments;
    arguments["taskId"] = "task-1".into();
    match parse(Action::SCHEDULE, arguments)?.verb {
        Verb::Schedule(wish) => wish.plan(None, "Europe/Berlin", at(NOON)),
        other => panic!("{other:?}"),
    }
}

fn task(recurrence: &str, missed: Missed) -> Task {
    let content = Content { prompt: "p".into(), timezone: Some("UTC".into()), missed, ..Content::default() };
    Task {
        id: "task-1".into(),
        row_id: "task-1".into(),
        status: InStatus::Pending,
        due: Some(at("2026-11-21T08:00:00Z")),
        planned: Some(at("2026-11-21T08:00:00Z")),
        recurrence: Some(recurrence.into()),
        address: Address::default(),
        content,
    }
}

#[test]
fn the_next_occurrence_is_in_the_zone_of_the_task() {
    for (expression, zone, now, expected) in [
        ("0 8 * * *", "Europe/Berlin", NOON, "2026-11-22T07:00:00Z"),
        ("0 8 * * *", "UTC", "2026-11-21T08:00:00Z", "2026-11-22T08:00:00Z"),
        ("*/15 9-17 * * MON-FRI", "UTC", NOON, "2026-11-23T09:00:00Z"),
        ("@daily", "America/New_York", NOON, "2026-11-22T05:00:00Z"),
        // The clocks go forward over it: once, just after.
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", "2027-03-28T01:00:00Z"),
        // They go back over it: the first time, and not the second.
        ("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00:00Z", "2027-10-31T00:30:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"),
    ] {
        assert_eq!(next(expression, zone, at(now)), Ok(at(expected)), "{expression} in {zone} after {now}");
    }
    for (expression, zone) in [("every day", "UTC"), ("0 8 * * *", "Mars/Base"), ("0 0 30 2 *", "UTC"), ("", "UTC")] {
        assert!(next(expression, zone, at(NOON)).is_err(), "{expression} {zone}");
    }
}

#[test]
fn times_are_of_the_tasks_zone_unless_they_say_otherwise() {
    for (time, zone, expected) in [
        ("2026-11-22T08:00:00", "Europe/Berlin", "2026-11-22T07:00:00Z"),
        ("2026-11-22 08:00", "America/New_York", "2026-11-22T13:00:00Z"),
        ("2026-11-22T08:00:00+05:30", "Europe/Berlin", "2026-11-22T02:30:00Z"),
        ("2026-11-22T08:00:00Z", "Europe/Berlin", "2026-11-22T08:00:00Z"),
        // In the hour that is left out: just after it; in the one that comes twice: the first.
        ("2027-03-28T02:30:00", "Europe/Berlin", "2027-03-28T01:30:00Z"),
        ("2027-10-31T02:30:00", "Europe/Berlin", "2027-10-31T00:30:00Z"),
    ] {
        let plan = plan(json!({"prompt": "p", "processAfter": time, "timezone": zone})).unwrap();
        assert_eq!((plan.at, plan.content.timezone.as_deref()), (at(expected), Some(zone)), "{time}");
    }
}

#[test]
fn a_plan_says_its_next_runs_and_keeps_its_zone() {
    let plan = plan(json!({"prompt": "p", "recurrence": "0 8 * * 1-5"})).unwrap();
    assert_eq!(plan.content.timezone.as_deref(), Some("Europe/Berlin"));
    let days = ["Mon Nov 23, 2026, 08:00 CET", "Tue Nov 24, 2026, 08:00 CET", "Wed Nov 25, 2026, 08:00 CET"];
    assert_eq!(plan.runs(), days);
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    for (arguments, why) in [
        (json!({"prompt": "p"}), "say when"),
        (json!({"prompt": " ", "processAfter": "2026-11-22T08:00"}), "prompt is empty"),
        (json!({"processAfter": "2026-11-22T08:00"}), "prompt is empty"),
        (json!({"prompt": "p", "processAfter": "tomorrow"}), "is no time"),
        (json!({"prompt": "p", "recurrence": "0 25 * * *"}), "no cron expression"),
        (json!({"prompt": "p", "recurrence": "0 0 30 2 *"}), "no cron expression"),
        (json!({"prompt": "p", "recurrence": "* * * * * *"}), "no cron expression"),
        (json!({"prompt": "p", "recurrence": "@daily", "timezone": "Mars/Base"}), "no time zone"),
        (json!({"prompt": "p", "recurrence": "@daily", "missed": "never"}), "unknown variant"),
        (json!({"prompt": "p", "recurrence": "@daily", "platformId": "x"}), "unknown field"),
        (json!({"prompt": "p".repeat(MAX_PROMPT_BYTES + 1), "recurrence": "@daily"}), "longer than"),
    ] {
        let error = plan(arguments.clone()).unwrap_err();
        assert!(error.contains(why), "{arguments}: {error}");
    }
    for (name, arguments) in [
        (Action::CANCEL, json!({})),
        (Action::PAUSE, json!({"taskId": "t", "prompt": "p"})),
        (Action::UPDATE, json!({"taskId": "t"})),
        (Action::UPDATE, json!({"taskId": "t\n", "prompt": "p"})),
        ("explode_task", json!({"taskId": "t"})),
    ] {
        assert!(parse(name, arguments.clone()).is_err(), "{name} {arguments}");
    }
}

#[test]
fn what_the_runner_writes_the_host_reads() {
    let wish = Wish {
        prompt: Some("p".into()),
        at: Some(at(NOON)),
        recurrence: Some("@daily".into()),
        timezone: Some("UTC".into()),
        missed: Some(Missed::Skip),
    };
    for verb in
        [Verb::Schedule(wish.clone()), Verb::Update(Wish { at: None, ..wish }), Verb::Cancel, Verb::Pause, Verb::Resume]
    {
        let action = Action { task_id: "task-1".into(), verb };
        let (kind, content) = action.to_action().to_row();
        let Outbound::Action { name, arguments } = Outbound::parse(kind, &content) else { panic!("{content}") };
        assert_eq!(Action::parse(&name, &arguments, "Asia/Tokyo"), Ok(action));
    }
}

#[test]
fn missed_runs_are_made_up_for_as_the_task_says() {
    let now = at("2026-11-21T11:30:00Z"); // 8:00 ran late: 9, 10 and 11 were missed
    for (missed, expected) in [
        (Missed::Latest, "2026-11-21T12:00:00Z"),
        (Missed::All, "2026-11-21T09:00:00Z"),
        (Missed::Skip, "2026-11-21T12:00:00Z"),
    ] {
        assert_eq!(task("0 * * * *", missed).following("UTC", now), Ok(Some(at(expected))), "{missed:?}");
    }
    let long_ago = Task { planned: Some(at("2020-01-01T00:00:00Z")), ..task("0 0 * * *", Missed::All) };
    assert_eq!(long_ago.following("UTC", now), Ok(Some(at("2026-11-15T00:00:00Z"))), "a week, and no more");
}

#[test]
fn a_clock_that_was_set_back_repeats_no_run() {
    let now = at("2026-11-21T07:59:55Z");
    for missed in [Missed::Latest, Missed::All, Missed::Skip] {
        let next = task("0 8 * * *", missed).following("UTC", now);
        assert_eq!(next, Ok(Some(at("2026-11-22T08:00:00Z"))), "{missed:?}");
    }
    // One that a person ran the day before is no such thing.
    let ran_early = task("0 8 * * *", Missed::Latest).following("UTC", at("2026-11-20T12:00:00Z"));
    assert_eq!(ran_early, Ok(Some(at("2026-11-21T08:00:00Z"))));
}

#[test]
fn only_what_is_to_be_skipped_is_and_only_when_it_is_really_late() {
    let now = at("2026-11-21T08:31:00Z");
    assert!(task("0 8 * * *", Missed::Skip).is_skipped(now));
    assert!(!task("0 8 * * *", Missed::Skip).is_skipped(at("2026-11-21T08:29:00Z")));
    assert!(!task("0 8 * * *", Missed::Latest).is_skipped(now));
    assert!(!Task { status: InStatus::Paused, ..task("0 8 * * *", Missed::Skip) }.is_skipped(now));
}

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let old = task("0 8 * * *", Missed::All);
    let of = |wish: Wish| wish.plan(Some(&old), "Europe/Berlin", at("2026-11-21T07:00:00Z")).unwrap();
    let plan = of(Wish { prompt: Some("q".into()), ..Wish::default() });
    assert_eq!((plan.at, plan.recurrence.as_deref()), (old.due.unwrap(), Some("0 8 * * *")));
    assert_eq!(plan.content, Content { prompt: "q".into(), ..old.content.clone() });
    let plan = of(Wish { recurrence: Some("0 9 * * *".into()), ..Wish::default() });
    assert_eq!(plan.at, at("2026-11-21T09:00:00Z"));
    let plan = of(Wish { timezone: Some("Europe/Berlin".into()), ..Wish::default() });
    assert_eq!(plan.at, at("2026-11-22T07:00:00Z"), "8:00 there is just now");
    let plan = of(Wish { recurrence: Some(String::new()), ..Wish::default() });
    assert_eq!((plan.at, plan.recurrence), (old.due.unwrap(), None));
}
