//! Records the minimum counts of a run: a run without enough events proves nothing.

use recado_torture_check::fact::RunFact;

use crate::book::Recorder;
use crate::plan::RunPlan;
use crate::world::share;

/// Records the minimum counts: a run without enough events proves nothing. The minimum grows with the length of the
/// run: a tenth of the throughput of two idle cores, and less if other programs used them, so that a busy machine
/// causes no violation.
pub fn note(plan: &RunPlan, book: &Recorder) {
    let seconds = plan.seconds;
    let share = share(book);
    let quota = |what: &str, wanted: u64, which: &dyn Fn(&RunFact) -> bool| {
        let wanted = (wanted as f64 * share).ceil() as u64;
        book.note(RunFact::Quota { what: what.to_owned(), had: book.count(which), wanted });
    };
    quota("posts with a definite yes", seconds * 15, &|fact| matches!(fact, RunFact::PostOk { .. }));
    quota("transactions of SQL producers", seconds, &|fact| matches!(fact, RunFact::PostKept { .. }));
    quota("notifications given", seconds * 100, &|fact| matches!(fact, RunFact::Recv { .. }));
    quota("connections", seconds * 5 / 3, &|fact| matches!(fact, RunFact::ConnOpen { .. }));
    let is_shared = |device: &str| device.contains("/s");
    quota(
        "connections of devices that are shared",
        seconds / 6,
        &|fact| matches!(fact, RunFact::ConnOpen { device, .. } if is_shared(device)),
    );
    quota("acknowledgements", seconds, &|fact| matches!(fact, RunFact::AckSent { .. }));
    quota("rows of pages", seconds, &|fact| matches!(fact, RunFact::Page { .. }));
    quota("refused posts", seconds / 12, &|fact| matches!(fact, RunFact::PostFail { .. }));
    quota("commands of devices", seconds * 2, &|fact| matches!(fact, RunFact::CommandGiven { .. }));
    quota("commands that the provider heard", seconds / 2, &|fact| matches!(fact, RunFact::UpFrame { command: Some(_), .. }));
    quota("messages of the provider in the log", seconds * 2, &|fact| matches!(fact, RunFact::UpEntry { said: Some(_), .. }));
    let fetched = book.sum(|fact| if let RunFact::ConsumerBatch { rows, .. } = fact { rows.len() as u64 } else { 0 });
    let wanted = ((seconds * 15) as f64 * share).ceil() as u64;
    book.note(RunFact::Quota { what: "rows that the consumer was given".to_owned(), had: fetched, wanted });
    quota("posts that the receiver accepted", seconds, &|fact| matches!(fact, RunFact::WebhookPost { answer: 204, .. }));
    quota("posts that the receiver refused", seconds / 20, &|fact| matches!(fact, RunFact::WebhookPost { answer: 500.., .. }));
    if seconds >= 60 && plan.faults.len() > 4 {
        // Chance may draw none of the faults that lead to these.
        let drawn = |leads: &dyn Fn(&str) -> bool| book.count(|fact| matches!(fact, RunFact::FaultEnd { fault, .. } if leads(fault)));
        let away = drawn(&|fault| matches!(fault, "hub-kill" | "hub-kill-all" | "owner-freeze" | "owner-cut"));
        let is_take_over = |fact: &RunFact| matches!(fact, RunFact::UpTerm { taken_over: true, .. });
        quota("take-overs of sessions at the provider", (seconds / 8).min(away * 2), &is_take_over);
        let unanswered = drawn(&|fault| fault.starts_with("hub-kill") || fault.starts_with("database") || fault.starts_with("postgres"));
        quota("outcomes that were not known", (unanswered / 2).min(1), &|fact| matches!(fact, RunFact::PostInfo { .. }));
        quota("places of another log", 1, &|fact| matches!(fact, RunFact::Liar { .. }));
    }
    if plan.sdk.is_some() {
        quota("clients of the SDK", seconds / 4, &|fact| matches!(fact, RunFact::SdkOpen { .. }));
        quota("notifications that the handlers of the SDK finished", seconds * 20, &|fact| matches!(fact, RunFact::SdkHandled { .. }));
        quota("commands of the SDK", seconds / 8, &|fact| matches!(fact, RunFact::CommandGiven { sdk: true, .. }));
        quota("commands that the SDK refused", seconds / 60, &|fact| matches!(fact, RunFact::CommandRefused { .. }));
        quota("tabs that came to lead", seconds / 10, &|fact| matches!(fact, RunFact::SdkLeads { .. }));
        quota(
            "connections of the SDK by SSE",
            seconds / 12,
            &|fact| matches!(fact, RunFact::LinkOpen { transport, .. } if transport == "sse"),
        );
    }
    quota("faults", (seconds / 15).max(1), &|fact| matches!(fact, RunFact::FaultEnd { .. }));
}
