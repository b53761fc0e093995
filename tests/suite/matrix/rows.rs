//! Holds the rows of the fault matrix as plain data.

pub struct MatrixRow {
    pub number: &'static str,
    pub fault: &'static str,
    pub holds: &'static str,
    pub tests: &'static [&'static str],
    /// Cases that the tests leave out, or why there is no test.
    pub note: Option<&'static str>,
}

const fn row(number: &'static str, fault: &'static str, holds: &'static str, tests: &'static [&'static str]) -> MatrixRow {
    MatrixRow { number, fault, holds, tests, note: None }
}

impl MatrixRow {
    const fn but(mut self, note: &'static str) -> Self {
        self.note = Some(note);
        self
    }
}

pub const ROWS: &[MatrixRow] = &[
    // The hub dies.
    row(
        "F01",
        "kill -9 after the body was read, before the append",
        "no row; the repeat with the same key makes it: 201",
        &["points::a_hub_killed_before_the_append_leaves_nothing_and_the_retry_makes_the_row"],
    ),
    row(
        "F02",
        "kill -9 between insert and commit",
        "cannot be: an append is one statement that commits itself; one that stalls in the database is rolled back, and leaves no hole",
        &[
            "points::an_append_is_one_statement_that_commits_itself",
            "append::a_rolled_back_append_leaves_no_hole_and_a_stalled_one_holds_nobody_up_for_long",
        ],
    ),
    row(
        "F03",
        "kill -9 after the commit was sent, its answer unread",
        "the repeat finds the one row",
        &["crash::a_hub_killed_between_commit_and_answer_leaves_one_row_that_the_retry_finds"],
    ),
    row(
        "F04",
        "kill -9 after the commit, before 201",
        "the repeat finds the one row",
        &["points::a_hub_killed_between_commit_and_201_leaves_one_row_that_the_retry_finds"],
    ),
    row(
        "F05",
        "kill -9 after 201, before the hub's own delivery",
        "clients of other hubs get it live, those of the dead hub when they come back",
        &["points::a_hub_killed_after_201_and_before_its_own_delivery_loses_nobody"],
    ),
    row(
        "F06",
        "kill -9 after a frame was sent, before its ack is read",
        "it comes again, once and in order",
        &["points::a_hub_killed_before_it_reads_the_ack_repeats_once_and_in_order"],
    ),
    row("F07", "kill -9 with acks in memory", "repeats, no loss", &["points::acks_that_die_with_their_hub_cost_repeats_and_no_loss"]),
    row(
        "F08",
        "kill -9 while acks are stored",
        "no place is lower than before, and none beyond what was acknowledged",
        &["points::a_hub_killed_while_acks_are_stored_moves_no_place_back"],
    ),
    row(
        "F09",
        "kill -9 in the middle of a page, 5,000 behind",
        "the resume has no gap",
        &[
            "points::a_hub_killed_in_the_middle_of_a_catch_up_leaves_no_gap",
            "crash::a_hub_killed_in_the_middle_of_a_page_leaves_no_gap_in_the_resume",
        ],
    ),
    row(
        "F10",
        "kill -9 of every hub under load, again and again",
        "every 201 is in the log, every device gets all",
        &["crash::every_hub_killed_under_load_again_and_again_loses_nothing"],
    ),
    row(
        "F11",
        "SIGTERM under load",
        "no post fails, goodbyes, acks are stored, exit code 0 in time",
        &[
            "stop::stopping_under_load_fails_no_post_and_loses_nothing",
            "stop::a_stopping_hub_says_when_to_come_back_and_ends_with_zero",
            "acks::acks_in_memory_are_stored_when_the_hub_stops",
        ],
    ),
    row(
        "F12",
        "a panic in a connection's task; in a shared one",
        "that connection is closed with 1011; the hub ends with an error, and others go on",
        &[
            "points::a_panic_in_one_connection_ends_that_connection_alone",
            "points::a_panic_in_a_shared_task_ends_the_hub_and_another_one_goes_on",
        ],
    ),
    // PostgreSQL.
    row(
        "F14",
        "kill -9 of PostgreSQL under load",
        "503 meanwhile, not ready within seconds, nothing lost, back by itself",
        &["crash::a_killed_postgresql_loses_no_201_and_the_hubs_recover_by_themselves"],
    ),
    row(
        "F15",
        "PostgreSQL stopped immediately, and fast",
        "the same; what may have been committed is 503 `outcome_unknown`",
        &[
            "outages::a_postgresql_that_is_stopped_at_once_or_quickly_is_503_until_it_is_back",
            "answers::what_may_have_been_committed_is_unknown_and_the_repeat_settles_it",
            "crash::connections_that_postgresql_ends_under_load_lose_nothing",
        ],
    ),
    row(
        "F16",
        "a power cut, on ext4 and on xfs",
        "every 201 is in the log, nothing that was delivered is missing",
        &[
            "power::a_power_cut_under_load_on_ext4_loses_no_201_and_no_delivery",
            "power::a_power_cut_under_load_on_xfs_loses_no_201_and_no_delivery",
        ],
    ),
    row(
        "F17",
        "the same without fsync or synchronous_commit",
        "the check sees the loss; the hub does not start on such a server unless forced",
        &[
            "power::without_synchronous_commit_the_same_cut_is_seen_to_lose_and_the_hub_refuses_to_start",
            "power::without_fsync_the_same_cut_is_seen_to_lose_and_the_hub_refuses_to_start",
            "guard::a_database_that_is_not_durable_is_refused_by_name",
        ],
    ),
    row(
        "F18",
        "failover to a synchronous standby",
        "no 201 is lost, the history keeps its id, clients resume",
        &["failover::a_failover_to_a_synchronous_standby_loses_no_201_and_clients_resume_silently"],
    ),
    row(
        "F19",
        "failover to a standby that lacks the end of the log",
        "a new history; devices are told `reset`",
        &["failover::a_failover_that_lost_the_end_of_the_log_is_another_history_and_everyone_is_told"],
    ),
    row(
        "F20",
        "the synchronous standby is gone",
        "503 `outcome_unknown` in time, no statement is cancelled, the repeat is one row",
        &["failover::without_its_synchronous_standby_a_post_is_503_unknown_in_five_seconds_and_the_retry_finds_one_row"],
    ),
    row(
        "F21",
        "restored from a backup",
        "a new history; devices are told `reset`",
        &[
            "restored::a_log_that_goes_back_under_running_hubs_gets_a_new_name_and_everyone_is_reset",
            "restored::a_log_that_went_back_and_grew_again_is_noticed_as_well",
            "restored::a_place_that_the_restored_log_does_not_reach_is_reset",
        ],
    ),
    row(
        "F23",
        "the primary takes no writes any more",
        "503 until it does; a hub does not start on one",
        &[
            "crash::a_database_that_takes_no_writes_is_503_until_it_does",
            "failover::a_hub_that_is_led_to_a_standby_is_not_ready_and_comes_back_to_the_primary",
            "guard::a_database_of_the_wrong_kind_is_refused_by_name",
        ],
    ),
    row(
        "F24",
        "no free connection",
        "503 in time; what other hubs append is still delivered; back by itself",
        &["outages::without_a_free_connection_posts_are_503_and_what_others_append_is_still_delivered"],
    ),
    row(
        "F25",
        "a statement timeout in an append, in a page",
        "tried again: one row; the client stays",
        &[
            "answers::what_was_surely_rolled_back_is_tried_again_and_is_there_once",
            "answers::a_page_that_the_database_cancels_is_asked_for_again_and_the_client_stays",
        ],
    ),
    row(
        "F26",
        "somebody locks the log",
        "503 in time, delivered afterwards, once",
        &[
            "append::a_locked_log_is_answered_with_503_and_nothing_is_lost_or_doubled_afterwards",
            "batch::a_locked_log_refuses_a_batch_as_a_whole_and_the_repeat_is_there_once",
        ],
    ),
    row(
        "F27",
        "a hub is frozen under load",
        "posts to others stall three seconds at most; nothing is lost when it wakes",
        &["frozen::a_frozen_hub_stalls_nobody_and_its_clients_get_everything_when_it_wakes"],
    ),
    row(
        "F28",
        "PostgreSQL is frozen",
        "503 in time, not ready, nothing lost, no storm of connections when it wakes",
        &["outages::a_frozen_postgresql_loses_nothing_and_meets_no_storm_when_it_wakes"],
    ),
    row(
        "F29",
        "the volume of the data is full",
        "503, delivery goes on, back by itself",
        &["disks::a_full_data_disk_is_503_while_reading_and_streams_go_on_and_needs_no_restart"],
    ),
    row(
        "F30",
        "the volume of the WAL is full",
        "503, no 201 is lost, back when there is room",
        &["disks::a_full_wal_disk_is_503_and_loses_no_201_when_there_is_room_again"],
    ),
    row(
        "F31",
        "serialization failure, deadlock, lock timeout",
        "tried again in time: one row",
        &["answers::what_was_surely_rolled_back_is_tried_again_and_is_there_once"],
    ),
    row(
        "F32",
        "tables get columns under load",
        "at most one post in a hundred is refused, nothing is lost",
        &["answers::columns_that_are_added_under_load_fail_no_post_and_lose_nothing"],
    ),
    row(
        "F33",
        "every NOTIFY is lost",
        "late by the poll only",
        &[
            "wakeup::a_hub_that_hears_no_notify_is_late_by_the_poll_only",
            "upstream_frames::with_every_hint_lost_it_only_takes_a_little_longer",
        ],
    ),
    row(
        "F34",
        "the listening connection ends, is reset, falls into a black hole",
        "replaced within ten seconds, and the table is read after that",
        &[
            "wakeup::a_listener_that_was_closed_is_replaced",
            "wakeup::a_listener_that_was_reset_is_replaced",
            "wakeup::a_listener_in_a_black_hole_is_replaced",
            "wakeup::nothing_that_was_committed_while_the_listener_was_away_waits_for_the_next_notify",
        ],
    ),
    row(
        "F36",
        "two, then six hubs start on an empty database",
        "all are ready, each migration is applied once",
        &["guard::two_hubs_may_start_on_an_empty_database_at_once", "guard::six_hubs_may_start_on_an_empty_database_at_once"],
    ),
    row("F37", "the hub of the last release beside this one", "both deliver", &[]).but("there is no release yet"),
    row(
        "F38a",
        "no byte passes between a hub and PostgreSQL",
        "503 within five seconds, not ready, each repeat is one row",
        &[
            "crash::a_database_that_answers_nothing_is_503_within_five_seconds_even_for_a_key_never_seen",
            "crash::throughout_a_long_outage_every_post_is_answered_within_five_seconds",
            "crash::throughout_a_long_outage_every_connect_is_answered_within_five_seconds",
            "crash::a_lost_answer_is_503_unknown_and_the_retry_on_the_same_hub_settles_it",
        ],
    ),
    row(
        "F38b",
        "a bit is flipped in the file of the log",
        "an alarm, never wrong data; other pages are served",
        &["disks::a_flipped_bit_is_an_alarm_and_never_wrong_data_and_other_pages_are_served"],
    ),
    // The network.
    row(
        "F40",
        "a slow way to the database",
        "slower, in order, no timeouts",
        &["network::a_slow_link_to_the_database_delays_and_neither_loses_nor_stalls"],
    ),
    row(
        "F41",
        "one packet in five to clients is lost",
        "delivered; pings end no healthy client",
        &["network::one_packet_in_five_lost_on_the_way_to_clients_delays_and_loses_nothing_and_pings_end_nobody"],
    ),
    row(
        "F42",
        "a client is gone without a word",
        "closed by the deadline of its pong, nothing is taken as acknowledged",
        &[
            "network::a_half_open_client_is_closed_within_ping_and_pong_deadline_and_confirms_nothing_more",
            "slow::a_client_that_answers_no_ping_is_closed",
            "bad_input::sockets::who_never_answers_a_ping_is_closed",
        ],
    ),
    row(
        "F43",
        "clients that do not read",
        "closed with 4001, memory is bounded, others are not kept waiting",
        &[
            "slow::clients_that_never_read_cost_the_fast_one_nothing_and_resume_later",
            "sse::a_page_that_reads_nothing_is_ended_and_costs_the_others_nothing",
        ],
    ),
    row(
        "F44",
        "all clients of a killed hub come to another",
        "each gets all that it missed; posts are answered meanwhile",
        &["returning::hundreds_that_come_back_at_once_get_all_they_missed_while_posts_go_on"],
    )
    .but("200 devices; `recado-bench resume` for more"),
    row(
        "F45",
        "all connections are reset, the hub lives",
        "the same",
        &["returning::hundreds_that_come_back_at_once_get_all_they_missed_while_posts_go_on"],
    ),
    // Repeats and time.
    row(
        "F47",
        "a repeat after retention has dropped the row of its key",
        "appended anew, as documented",
        &["retention::devices_that_retention_passed_are_told_the_gap_and_the_others_go_on"],
    ),
    row(
        "F48",
        "a hub's clock jumps",
        "numbers, leases and waits are as before; tokens follow the clock",
        &[
            "clock::a_hub_whose_clock_jumps_numbers_delivers_and_reconnects_as_before",
            "clock::tokens_end_by_the_hubs_wall_clock_and_streams_that_are_open_stay",
            "clock::leases_are_kept_and_taken_over_whatever_the_wall_clocks_say",
            "clock::a_hub_that_is_a_day_ahead_drops_nothing_that_is_to_be_kept_and_one_that_is_behind_keeps_nothing_longer",
        ],
    ),
    row(
        "F51",
        "retention passes the place of a device that sleeps",
        "`gap` with the range, then the oldest; the history answers 410",
        &[
            "retention::devices_that_retention_passed_are_told_the_gap_and_the_others_go_on",
            "history::a_place_that_is_not_in_the_log_is_told_apart",
        ],
    ),
    // Sessions with a provider.
    row(
        "F53",
        "two hubs race for 500 sessions; one is killed",
        "one owner each; taken over within the lease and five seconds",
        &[
            "upstream_race::five_hundred_sessions_have_one_owner_each_and_outlive_it_at_the_configured_rate",
            "upstream::a_killed_owner_is_followed_within_its_lease_with_the_same_session_id",
            "upstream_store::of_claims_at_the_same_time_one_gets_each_session",
        ],
    ),
    row(
        "F54",
        "an owner is frozen for longer than its lease, and wakes",
        "it does nothing, and hangs up",
        &[
            "upstream::a_frozen_owner_that_wakes_after_its_lease_does_nothing_and_hangs_up",
            "upstream_store::a_frozen_owner_does_nothing_when_it_wakes",
        ],
    ),
    row(
        "F55",
        "an owner is cut off from PostgreSQL",
        "it hangs up before its lease ends",
        &["upstream::an_owner_that_is_cut_off_from_the_database_hangs_up_before_its_lease_ends"],
    ),
    row(
        "F56",
        "an owner is cut off from the provider",
        "it dials again; the user is told that messages may be missing",
        &[
            "upstream::a_provider_that_falls_silent_is_dialled_again",
            "upstream_gaps::after_a_break_the_user_is_told_that_messages_may_be_missing",
        ],
    ),
    row(
        "F57",
        "a provider that flaps",
        "a few tries with longer and longer waits; the user is told",
        &["upstream::a_flapping_provider_is_tried_a_few_times_and_the_user_is_told"],
    ),
    row(
        "F58",
        "a sign-in that is refused, slow, endless, redirected, nonsense, or leads elsewhere",
        "bounded, not followed, told",
        &[
            "upstream_provider::a_sign_in_ends_as_the_provider_answered_and_within_its_deadline",
            "upstream_provider::a_redirect_is_not_followed",
            "upstream_provider::a_url_in_the_providers_answer_leads_only_to_listed_hosts",
            "upstream_provider::a_name_that_leads_inward_is_not_dialled",
        ],
    ),
    row(
        "F59",
        "a provider that answers no keep-alive",
        "noticed by the deadline, dialled again",
        &["upstream::a_provider_that_falls_silent_is_dialled_again"],
    ),
    row(
        "F60",
        "a provider that floods",
        "held back, memory is bounded, others do not notice",
        &["upstream::a_flood_is_held_back_and_hurts_no_other_user"],
    ),
    row(
        "F61",
        "a provider whose WebSocket is broken",
        "noticed at once, no crash",
        &["upstream_provider::a_provider_that_breaks_the_protocol_is_noticed_at_once"],
    )
    .but("`tools/conformance` for the cases of the protocol"),
    row(
        "F62",
        "kill -9 of an owner before it connects, before it writes that down, with a command claimed, with a command sent, with a message read",
        "the next owner within the lease; a command goes up at most once and is `unknown`; a lost message is a gap that is told",
        &[
            "upstream_points::an_owner_killed_before_it_connects_is_followed_within_its_lease",
            "upstream_points::an_owner_killed_before_it_writes_down_that_it_is_live_leaves_one_session",
            "upstream_points::a_command_claimed_and_not_sent_is_unknown_and_is_never_sent",
            "upstream_points::a_command_sent_and_not_settled_is_unknown_and_is_not_sent_again",
            "upstream_points::a_message_read_and_not_stored_is_told_as_a_gap",
        ],
    ),
    // One row, one lock, one message must not stop all.
    row(
        "X1",
        "a row of the log that is larger than a page, a provider's message of 1 MiB, large rows over a slow link",
        "delivered, and so is all that follows; a message that is too large as JSON is told as a gap",
        &[
            "large_rows::a_row_that_is_larger_than_a_page_is_delivered_and_so_is_what_follows",
            "large_rows::large_rows_come_over_a_slow_link_to_the_database",
            "large_rows::a_message_of_a_provider_that_is_too_large_as_json_is_told_as_a_gap",
        ],
    ),
    row(
        "N2",
        "a login without rights takes every advisory lock that there was",
        "posts and calls from SQL go on; no lock that anybody waits for can be taken without a privilege",
        &["locks::a_login_without_rights_can_take_no_lock_that_anybody_waits_for"],
    ),
    row(
        "N3",
        "a forged NOTIFY with the highest number",
        "a look at the table, and nothing else",
        &["locks::a_forged_notification_is_a_reason_to_look_and_nothing_else"],
    ),
    row(
        "N10",
        "the hub that moves the outbox is killed behind a pooler; nobody moves",
        "another hub moves within its lease; every hub measures what waits, and is not ready while it is stuck",
        &["locks::a_mover_that_is_gone_is_followed_within_its_lease_and_every_hub_sees_what_waits"],
    ),
    row(
        "N13",
        "a publication of all tables",
        "retention, facts and the outbox go on",
        &["locks::a_publication_of_all_tables_stops_nothing"],
    ),
    row(
        "N13c",
        "a publication of the log, decoded while two hubs append, acknowledge and erase",
        "each row once, in the order of the numbers, and each erasure; the hubs go on",
        &["cdc::a_publication_of_the_log_gives_each_row_once_in_order_and_each_erasure"],
    ),
    row(
        "X2",
        "a row of the outbox that the log does not take, or that no hub could read",
        "set aside alone with its reason; one that is in the log is passed over and counted",
        &[
            "locks::a_row_that_the_log_does_not_take_is_set_aside_alone_with_its_reason",
            "large_rows::a_row_that_breaks_the_rules_of_the_log_is_passed_over_and_counted",
        ],
    ),
    row(
        "X11",
        "an append fails for a reason that the hub does not know",
        "503 with `Retry-After`, readiness follows, nothing is lost",
        &["locks::an_append_that_fails_for_an_unknown_reason_is_503_and_readiness_follows"],
    ),
    // Who may stay.
    row(
        "F63",
        "a token runs out on a live connection",
        "a newer one keeps it; else it ends with 4401 in time, a stream of events as well",
        &[
            "doors::a_token_that_runs_out_ends_the_connection_after_a_warning",
            "doors::a_newer_token_of_the_same_user_keeps_the_connection",
            "sse::the_end_is_said_before_it_comes",
            "tickets::a_connection_by_ticket_ends_with_the_token_and_not_with_the_ticket",
        ],
    ),
    row(
        "F64",
        "the server of public keys is down, its keys change",
        "known keys go on, few questions",
        &[
            "issuers::a_token_is_not_called_bad_because_its_issuer_cannot_be_asked",
            "issuers::a_wrong_answer_leaves_the_old_set_in_use_until_it_is_stale",
            "issuers::a_new_key_is_fetched_once_for_all_who_ask",
        ],
    ),
    row(
        "X8",
        "stderr is a full disk",
        "the hub serves; the lines that are lost are counted",
        &["logs::a_log_on_a_full_disk_is_counted_and_the_hub_serves_on"],
    ),
    row(
        "X9",
        "stderr is a pipe that nothing reads",
        "the hub serves; lines are dropped, counted, and one line says how many once the pipe is read",
        &["logs::a_log_that_nothing_reads_stops_nothing_and_the_loss_is_told_once_it_is_read"],
    ),
    row(
        "N9",
        "a database connection dies while it is idle: an idle limit, a terminated backend, a restart, a firewall that forgets it",
        "it is found dead before a statement is sent and replaced; every post is 201 and every page is answered",
        &[
            "idle::every_post_is_201_though_the_database_ends_the_appender_between_them",
            "idle::a_limit_on_idle_sessions_costs_no_post_and_no_page",
            "idle::the_first_post_and_page_after_a_restart_of_the_database_are_answered",
            "idle::a_connection_that_a_firewall_forgot_costs_a_moment_and_no_request",
        ],
    ),
    row(
        "X4",
        "synchronous_commit, fsync or full_page_writes is turned off under a running hub",
        "the hub's own connections keep synchronous_commit on, no 201 is lost; while another one is off, posts are 503 and the hub is not ready, by name",
        &[
            "idle::turning_synchronous_commit_off_under_a_running_hub_loses_no_201",
            "idle::turning_fsync_off_under_a_running_hub_ends_its_readiness_by_name_until_it_is_on_again",
        ],
    ),
    row(
        "X7",
        "every idle reader of the hub is ended",
        "the next page is answered, and the next device is let in",
        &["idle::a_page_is_answered_though_every_idle_reader_was_ended"],
    ),
    row(
        "N4",
        "one user replays everything, or reads deep pages, in many loops at once",
        "pages are read in turns of users, one of a user at a time, within a budget of bytes: the user waits, others do not",
        &[
            "fair::a_user_who_replays_everything_over_and_over_slows_nobody_else",
            "fair::a_user_who_reads_deep_pages_over_and_over_slows_nobody_else",
        ],
    ),
    row(
        "C2",
        "a browser's `EventSource` meets a hub that is full, stops, or has no place for the user",
        "it is told by an event when to come back, and resumes; programs get the status",
        &[
            "sse::a_browser_that_cannot_be_taken_now_is_told_when_to_come_back",
            "sse::a_browser_resumes_although_its_hub_refused_it_for_a_while",
        ],
    ),
    row(
        "C3",
        "a parser that hands out every block of the stream of events",
        "each block is a frame with a type; heartbeats have a name, `seq` and `prev`",
        &["sse::an_idle_page_keeps_up_by_heartbeats_that_have_a_name"],
    ),
    row("C4", "a client names several places", "the highest counts", &["sse::naming_the_last_event_acknowledges_it_for_the_device"]),
    row(
        "C5",
        "a proxy that compresses answers",
        "streaming answers say `no-transform`",
        &["pages::a_streaming_answer_tells_proxies_not_to_gather_it"],
    ),
    row(
        "C6",
        "pages of the hub's own host, of apps, of wildcard hosts, of hosts that are written in another way",
        "let in; what can match no page is refused at the start; a refused origin is logged once a minute",
        &[
            "pages::pages_of_the_hubs_own_host_of_listed_hosts_and_of_apps_are_let_in",
            "pages::an_origin_that_no_page_can_have_is_refused_at_the_start",
        ],
    ),
    row(
        "C7",
        "a page of another origin sends headers of its own and credentials",
        "let through the preflight; it may read the hub's headers",
        &["pages::a_page_of_another_origin_may_send_its_headers_and_read_those_of_the_hub"],
    ),
    row(
        "X18",
        "a token with a `crit` of any kind in its header, an unknown role, or times at the ends of what can be counted",
        "refused, with the reason",
        &["bad_input::tokens::a_bad_token_opens_no_socket_and_says_why_over_it"],
    ),
    row(
        "X19",
        "SIGTERM while a stream of lines never pauses",
        "it ends in time with `draining`; what was answered is in the log, and nothing else",
        &["ndjson::a_stopping_hub_ends_a_stream_that_never_pauses_and_keeps_what_it_answered"],
    ),
    row(
        "C16",
        "a proxy's own `Authorization` beside a good token or ticket, a caller's own request id, `charset=utf8`",
        "the good token counts, the id is kept, the body is taken",
        &[
            "pages::a_good_token_or_ticket_in_the_query_counts_beside_a_proxys_own_bearer",
            "pages::answers_keep_the_callers_request_id_and_end_their_line",
        ],
    ),
    row(
        "C13",
        "an export as CSV to stdout, of cells that a spreadsheet takes for formulas",
        "a header; `--spreadsheet-safe` marks the cells; a file is for its owner alone",
        &["export::csv_has_its_header_everywhere_and_a_file_is_for_its_owner_alone"],
    ),
    row(
        "C17",
        "a person looks at stats, keys and settings",
        "tables with a sensible order, times and defaults; JSON for programs",
        &["cli::tables_are_for_people_and_json_is_for_programs"],
    ),
    row(
        "X21",
        "`recado migrate` on a newer schema, `recado token` that the hub would refuse, a user's history by the command line",
        "said, refused, printed page by page",
        &["cli::what_a_hub_would_refuse_or_do_nothing_about_is_said", "cli::history_prints_page_after_page_of_what_a_user_was_sent"],
    ),
    row(
        "S10a",
        "control and bidi characters in what users are sent, printed to a terminal",
        "escaped, with the same value in JSON",
        &["cli::listen_and_history_print_nothing_that_a_terminal_acts_on"],
    ),
    row(
        "S9a",
        "a post with a type that only the hub's own notifications have",
        "422 `reserved_type`, as events of CloudEvents too",
        &["deliver::what_is_refused_reaches_nobody"],
    ),
    // What attacks found: numbers begin with the letter of their kind.
    row(
        "N7",
        "a user who connects and leaves without end, or acknowledges with made-up client ids",
        "at most so many devices are kept, the longest unused one goes and is told; sessions, facts, devices, commands and hubs go after a default time, a bounded number a round",
        &[
            "tables::a_user_has_a_bounded_number_of_devices_and_the_longest_unused_is_told_the_gap",
            "tables::new_devices_at_once_neither_deadlock_nor_lose_a_mark",
            "tables::bookkeeping_has_a_default_retention_and_forever_is_a_word",
            "tables::a_round_beside_a_serving_hub_deletes_a_bounded_number_of_rows",
        ],
    ),
    row(
        "N8",
        "tables of millions of rows around the log",
        "what is asked each minute, each second and at each connect looks at the same pages",
        &[
            "tables::what_is_asked_again_and_again_looks_at_the_same_pages_in_tables_ten_times_as_long",
            "tables::no_condition_compares_a_column_with_a_volatile_time",
        ],
    ),
    row(
        "C1",
        "two clients of one user share a `client_id` or send none; their hub is killed, and one comes back after the other has acknowledged everything",
        "each is given what it missed, over WebSocket and SSE, on another hub; a client alone on its device repeats nothing",
        &[
            "shared_ids::two_clients_without_a_client_id_both_get_what_was_posted_while_their_hub_was_dead",
            "shared_ids::clients_on_two_hubs_that_share_an_id_both_get_what_they_missed",
            "shared_ids::two_event_sources_that_share_an_id_both_get_what_they_missed",
            "shared_ids::the_slower_of_two_that_are_cut_is_given_what_only_the_quicker_acknowledged",
            "shared_ids::a_client_that_is_alone_on_its_device_repeats_nothing_and_is_told_nothing",
        ],
    ),
    row(
        "X20",
        "a page that is going away answers a ping",
        "its pong acknowledges nothing; the next page is given what it was sent",
        &["shared_ids::a_pong_of_a_connection_that_ends_at_once_acknowledges_nothing"],
    ),
    row(
        "N12",
        "streams whose client vanished without a word take every place of a user",
        "the oldest connection of the same device makes room for the newest; another device is never pushed out",
        &["doors::at_the_limit_the_oldest_connection_of_the_same_device_makes_room"],
    ),
    row(
        "N1",
        "a stranger holds hundreds of idle connections of one address, and asks without end",
        "probes, posts and connects of others go well; what is dropped is counted and logged; a proxy is believed only where it is trusted",
        &[
            "flood::a_stranger_who_floods_takes_no_probe_no_post_and_no_connect_from_the_others",
            "flood::requests_of_strangers_have_a_budget_for_each_address_and_those_of_users_have_not",
            "flood::a_proxy_is_believed_about_its_clients_where_it_is_trusted_and_nowhere_else",
        ],
    ),
    row(
        "S11",
        "public and internal routes share one port",
        "with RECADO_INTERNAL_BIND services, operators and probes have a listener of their own",
        &["flood::an_internal_listener_takes_publishing_metrics_and_probes_away_from_the_public_one"],
    ),
    row(
        "X10",
        "few open files, more clients than that, and the database's connections end",
        "descriptors for the database are kept; it is reached again at once",
        &["flood::clients_never_take_the_descriptors_of_the_database"],
    ),
    row(
        "D8",
        "a hub on another port, and `recado healthcheck` with the same settings",
        "the command asks that hub",
        &["flood::a_command_asks_the_hub_that_the_same_settings_start"],
    ),
    row(
        "D9",
        "a client keeps a connection between two requests",
        "75 s, a setting that is announced; a head still has ten seconds",
        &["bad_input::slow::half_a_request_is_given_up_in_time"],
    ),
    row("D12", "SIGHUP", "the hub stops as by SIGTERM", &["stop::a_hangup_stops_the_hub_as_sigterm_does"]),
    row(
        "S1",
        "a JWT secret that is empty, short, one character, or in a file that others can read or write, from every source",
        "the hub does not start, says what to do, and makes no new secret over it",
        &["guard::a_secret_that_is_none_or_that_others_can_read_is_refused_wherever_it_comes_from"],
    ),
    row(
        "S4",
        "another role owns the schema, a function in it, or the right to make one, before the first migration",
        "the hub does not start and names the role, the object and the statement that fixes it",
        &["guard::a_schema_that_another_role_made_before_the_first_migration_is_refused"],
    ),
    row(
        "S5",
        "two hubs' databases in one cluster; the login of one hub connects to the database of the other",
        "it can read, delete, append and notify nothing there; producers and analysts work in their own; databases that share roles are named at start, and a command separates them",
        &[
            "roles::the_login_of_one_hub_can_do_nothing_in_the_database_of_another",
            "roles::roles_of_a_databases_own_are_granted_what_the_plain_ones_are",
            "roles::a_user_who_may_make_no_roles_serves_without_and_an_administrator_makes_them_later",
            "roles::a_database_that_shares_roles_is_separated_by_a_command_while_no_hub_runs",
            "roles::names_of_roles_fit_and_differ_whatever_the_databases_are_called",
            "roles::a_role_that_was_there_before_is_not_taken_for_the_databases_own",
            "roles::a_database_with_tables_of_others_stays_open",
            "guard::a_hub_says_when_another_database_uses_the_same_roles",
        ],
    ),
    row(
        "S10r",
        "root starts a hub",
        "every thread is the private server's user, or that of RECADO_USER, without a capability; where it stays root it says why",
        &[
            "private_server::a_hub_that_root_starts_becomes_the_private_servers_user_in_every_thread",
            "private_server::a_hub_that_root_starts_on_a_given_database_warns_or_becomes_the_named_user",
        ],
    ),
    row(
        "S10h",
        "a page whose name leads to 127.0.0.1 asks a hub on loopback, with or without `Origin`",
        "421, on every path",
        &["doors::on_loopback_a_request_to_an_unknown_name_is_refused_with_or_without_an_origin"],
    ),
    row(
        "D11a",
        "the owner of the database is no superuser, and has no attribute",
        "it migrates, serves, retains and erases",
        &["roles::an_owner_without_any_attribute_migrates_serves_retains_and_erases"],
    ),
    row(
        "D11b",
        "a user with CREATEROLE may not make a login all the same",
        "the right that is missing is named, with the statement that gives it",
        &["roles::a_user_with_createrole_who_is_refused_is_told_another_reason"],
    ),
    row(
        "N15",
        "a hub of before migration 11 serves on the present schema",
        "every statement that it sends is accepted, with the same types, under the same rights",
        &["old_hubs::every_statement_of_an_old_hub_is_still_accepted"],
    ),
    row(
        "N16",
        "a call of `recado.notify` commits at the moment in which the relay goes to sleep; the hub dies asleep",
        "the relay polls until all transactions have ended that missed the announcement; another hub takes the lease",
        &[
            "idle_hub::a_transaction_that_began_before_the_sleep_keeps_the_relay_polling",
            "idle_hub::no_call_around_the_moment_of_sleep_waits_for_the_next_look",
            "idle_hub::another_hub_relays_when_the_one_that_sleeps_is_killed",
            "idle_hub::callers_do_not_pay_for_a_hub_that_died_asleep",
        ],
    ),
    row(
        "D4",
        "the database is migrated by an administrator and served by a member of the hub's role",
        "no DDL is needed when nothing is to do; a missing right is named",
        &["guard::a_database_that_an_administrator_migrated_is_served_by_a_member_of_the_hubs_role"],
    ),
    row(
        "D10",
        "a dump is restored into another cluster, which does not have the roles",
        "the first start makes them and grants them what they had",
        &["guard::a_dump_restored_into_another_cluster_has_its_roles_again_after_the_first_start"],
    ),
    row(
        "D11",
        "settings of the role or the database change how SQL is read",
        "the migrations mean the same",
        &["guard::settings_of_the_role_do_not_change_what_the_migrations_mean"],
    ),
    row(
        "S10b",
        "another user makes the private server's lock files, or logs in to it; a start fails",
        "refused by name; every login but the server's own user and root needs a password; no server stays behind",
        &[
            "private_server::a_lock_file_that_another_user_made_is_refused_by_name_and_nothing_is_started",
            "private_server::the_servers_superuser_needs_no_password_and_every_other_login_does",
            "private_server::a_hub_that_does_not_start_leaves_no_server_behind",
        ],
    ),
    row(
        "S10c",
        "a password in an argument of a command",
        "refused, with the setting to use instead",
        &["guard::a_password_among_the_arguments_is_refused_with_the_other_way_named"],
    ),
    row(
        "C10",
        "a page whose address breaks a rule, names empty values, or brings a bad token",
        "told by the close frame, with what was wrong, so that it does not come back for ever; an empty value is none",
        &["bad_input::requests::a_page_that_asks_wrongly_is_told_by_the_close_and_an_empty_value_is_none"],
    ),
    row("S9b", "a service key is revoked while two hubs know it", "both refuse it at once", &["cli::a_key_is_made_used_and_revoked"]),
    row(
        "S9c",
        "a service key gets other scopes while two hubs know it",
        "both follow at once",
        &["scopes::keys_are_made_limited_and_listed_on_the_command_line"],
    ),
    row(
        "S9d",
        "a service key with scopes leaks",
        "it posts what its scopes name, from its networks, until it expires, and nothing else by any route",
        &[
            "scopes::a_post_is_refused_with_each_scope_that_it_lacks",
            "scopes::a_batch_is_refused_whole_and_a_stream_from_its_first_bad_line",
            "scopes::events_are_refused_in_their_own_words",
            "scopes::members_and_the_routes_that_read_need_their_scopes",
            "scopes::a_key_is_used_from_its_networks_as_a_trusted_proxy_names_them",
            "scopes::a_key_ends_at_its_time",
        ],
    ),
    row(
        "N5",
        "1,000 guessed tickets or keys a second",
        "a guess ends without a statement, or in a statement that is shared and paced; services and users notice nothing",
        &["fair::guessed_tickets_and_keys_cost_the_database_next_to_nothing"],
    ),
    row(
        "N6",
        "one user connects, sends messages, acks or pongs without a pause, over many connections",
        "budgets per user over all connections, each counted; others are served",
        &[
            "fair::messages_count_per_user_over_all_connections",
            "fair::who_connects_over_and_over_is_told_to_come_back_later",
            "fair::a_flood_of_acknowledgements_ends_nothing_and_leaves_nothing_out",
        ],
    ),
    row(
        "N14a",
        "a broadcast to tens of thousands while others connect",
        "the gate is released every thousand pushes; no position taken in between loses or repeats anything",
        &[],
    )
    .but("a property test of the library shows it: `delivery::registry::tests::a_position_taken_between_two_turns_joins_table_and_outbox`"),
    row(
        "N14b",
        "the database hangs while services post with known keys",
        "one wait, not one for each request; a key in use is looked up in the background",
        &[],
    )
    .but("tests of the library show it, before a database that never answers: `http::key_cache::tests`"),
    row(
        "N14c",
        "one bad row in a batch of many",
        "it fails alone, and is found by halves",
        &["append::one_bad_row_in_a_full_batch_is_found_in_some_commits"],
    ),
    row(
        "N14d",
        "a command waits for the database",
        "its connection's frames go on; commands are stored in order, also those given just before the end",
        &[
            "upstream_frames::a_command_that_waits_for_the_database_holds_up_no_frame_of_its_stream",
            "upstream_frames::a_command_given_just_before_the_connection_ends_is_stored",
        ],
    ),
    row(
        "S3",
        "a request to erase a user or a notification; old rows in a log that fills no partition; text past its `ttl`",
        "none of it stands in any table, numbers stay dense, who resumes is told or given what is left; no other change of the log is possible",
        &[
            "erase::an_erased_user_stands_in_no_table_and_others_keep_what_is_theirs",
            "erase::an_erased_number_is_given_to_nobody_and_what_follows_names_the_one_before",
            "erase::old_rows_go_by_age_however_few_there_are_and_the_head_stays",
            "erase::a_partition_that_became_full_goes_as_a_whole",
            "erase::what_is_over_its_ttl_loses_its_text_and_keeps_its_number",
            "erase::the_log_stays_append_only_but_for_these_changes",
        ],
    ),
    row(
        "S8",
        "an analyst made a large object, and comes back again and again",
        "the login is dropped",
        &["analysts::a_login_is_dropped_whatever_it_has_made"],
    ),
    row(
        "D1",
        "a Kubernetes Service named recado sets RECADO_PORT=tcp://… and the like",
        "they pass with one line; a wrong name stays an error",
        &["reaching::the_variables_of_kubernetes_services_named_recado_stop_nothing"],
    ),
    row(
        "D3",
        "DATABASE_URL leads through a pooler",
        "in session mode it serves; in transaction mode it is refused by name; a setting that does not take hold is named",
        &["reaching::a_pooler_in_session_mode_serves_and_one_in_transaction_mode_is_refused_by_name"],
    ),
    row(
        "D5",
        "the URL in DATABASE_URL_FILE changes under a running hub",
        "the next connection follows it",
        &["reaching::a_url_that_changes_in_its_file_is_followed_by_the_next_connection"],
    ),
    row(
        "D6",
        "two hubs with different secrets on one database",
        "the second does not start, by name, while one with the first secret lives",
        &["reaching::a_hub_with_another_secret_than_the_one_that_lives_does_not_start"],
    ),
    row(
        "D7",
        "DATABASE_URL names several hosts, one of them a standby; a failover between them",
        "the hub serves on the one that takes writes, and finds the new one",
        &["reaching::of_several_hosts_the_one_that_takes_writes_is_found_again_and_again"],
    ),
    row(
        "D12b",
        "the database is not there yet when the hub starts",
        "the hub waits for RECADO_DATABASE_WAIT and says so",
        &["reaching::a_hub_waits_for_a_database_that_starts_later"],
    ),
    row(
        "D13",
        "DATABASE_URL, a secret, a folder or the file of one is empty or only white space",
        "refused by name",
        &["reaching::an_empty_setting_or_file_is_refused_by_name"],
    ),
    row(
        "S6",
        "a man in the middle answers in the database's place",
        "TLS is the least on the way to another machine; no password goes there in clear text",
        &["reaching::no_password_goes_to_another_machine_in_clear_text"],
    ),
    row(
        "S7",
        "DATABASE_URL holds an unknown parameter, another scheme, or a form that cannot be kept",
        "refused by name; no value is shown",
        &["reaching::a_database_url_that_cannot_be_kept_is_refused_by_name_and_shows_no_value"],
    ),
    row(
        "X3",
        "the private server is killed or stopped under its hubs",
        "one hub starts it again, and all go on",
        &[
            "private_server::a_server_that_died_is_started_again_by_one_of_its_hubs",
            "private_server::a_hub_whose_private_server_was_killed_goes_on_by_itself",
        ],
    ),
    row(
        "X5",
        "the database is rolled back while no hub is awake, and grows past the clients",
        "the log has a new id, and clients are told reset",
        &[
            "rolled_back::a_hub_with_a_data_folder_remembers_what_it_saw_and_renames_a_log_that_lacks_it",
            "rolled_back::a_log_on_another_server_is_renamed_unless_it_can_be_shown_to_have_gone_on",
        ],
    )
    .but(
        "A copy of the data folder on the same server is noticed by a hub with a data folder of its own only (docs/internals/delivery.md).",
    ),
    row(
        "X6",
        "the database's clock stood ahead, and times of provider sessions were written by it",
        "a next try or a lease further ahead than any hub writes is not believed",
        &["upstream_store::a_time_that_lies_too_far_ahead_is_not_believed"],
    ),
    row(
        "X15",
        "two Authorization headers or tokens, a HEAD for a stream, a handshake of another version, a token in a path",
        "400; a HEAD changes nothing; 426 with the version; it is not logged",
        &["flood::what_says_who_asks_is_taken_once_and_a_head_changes_nothing"],
    ),
    row(
        "C14",
        "analysts ask for DISTINCT, GROUP BY or UNION of `data`; others built views on ours before it became jsonb",
        "`data` is a value like any other, NULL where jsonb cannot hold it; the views of others stay, with their rights and answers",
        &["analysts::whatever_the_data_holds_every_view_answers", "analysts::views_that_others_built_on_ours_survive_the_change_to_jsonb"],
    ),
    row(
        "C15",
        "an analyst's tool opens more connections than a login has by default",
        "`recado analyst create --connections N` gives the login N; one more is refused",
        &["analysts::a_login_has_as_many_connections_as_it_was_made_with"],
    ),
    row(
        "N12n",
        "a browser's event stream or an NDJSON stream whose client vanished without a FIN",
        "the hub ends it within the write timeout and seven seconds; its place is free",
        &["network::a_stream_whose_client_vanished_is_ended_within_seconds"],
    ),
    row(
        "C16n",
        "a kept or given secret file, or a DATABASE_URL_FILE that is read again, begins with a byte order mark",
        "the mark is no part of the value; a file with a mark alone is empty, and refused",
        &["reaching::a_url_that_changes_in_its_file_is_followed_by_the_next_connection"],
    )
    .but("Tests of the library (`secrets.rs`) hold the kept and the given file."),
    row(
        "X12",
        "a setting, or a credential that a provider file names, holds bytes that are not UTF-8",
        "refused by name; the value is not shown",
        &["reaching::a_setting_that_is_not_utf8_is_refused_by_name"],
    ),
    row(
        "S10d",
        "a hub, or a file, gives the command line text that a terminal acts on, in any field",
        "it is printed escaped, on stdout and on stderr; JSON keeps its value",
        &[
            "cli::the_talk_of_a_strange_hub_has_nothing_that_a_terminal_acts_on",
            "cli::listen_and_history_print_nothing_that_a_terminal_acts_on",
        ],
    )
    .but("`tools/walls` allows stdout and stderr in the one place that escapes."),
    row(
        "D2",
        "a batch of 570 kB, a stream of lines, a WebSocket and an event stream go through the nginx that ships, and a hub behind it dies",
        "all pass as without it; the hub, not nginx, refuses what is too large; a post goes to the other hub; no token is logged",
        &["deploy::the_nginx_that_ships_passes_everything_that_a_hub_takes"],
    ),
    row(
        "D2b",
        "batches above 1 MiB and above 9 MiB, and a stream of lines above 10 MiB to each route that accepts one, go through the nginx that ships",
        "the hub, not nginx, accepts or refuses the batch; each line is answered while the stream goes on",
        &["deploy::nginx_limits_no_batch_and_buffers_no_stream_of_lines"],
    ),
    row(
        "D2c",
        "two hubs behind the nginx that ships are stopped and started one after another, twice, while ten streams reconnect; then both die",
        "no stream gets another status than 200 while a hub runs; without a hub an `EventSource` gets a `goodbye` and comes back",
        &["deploy::nginx_refuses_no_stream_during_a_rolling_stop"],
    ),
    row(
        "D14",
        "the hubs are started by docker-compose.yml or fly.toml",
        "one build an image name, a slot for a provider file, the balancer known and believed, origins named, time to stop",
        &[
            "deploy::docker_compose_builds_once_and_has_a_slot_for_a_provider_file",
            "deploy::the_balancer_of_docker_compose_knows_its_hubs_and_is_believed_by_them",
            "deploy::fly_names_the_pages_and_gives_a_hub_the_time_that_it_takes_to_stop",
        ],
    )
    .but("The files are read; docker and Fly are not run."),
    row(
        "D15",
        "Prometheus's own program reads the alert rules, their tests, the dashboard's expressions and the metrics of a hub",
        "all are accepted; each names only metrics that a hub exposes; each alert has a test that fires it and a section of the runbook",
        &[
            "observing::promtool_accepts_the_rules_the_dashboard_and_the_metrics",
            "observing::prometheus_scrapes_a_hub_and_keeps_its_exemplars",
            "observing::alerts_and_dashboard_name_only_metrics_that_a_hub_exposes",
            "observing::every_alert_has_a_test_that_fires_it_and_a_section_of_the_runbook",
        ],
    ),
    row(
        "D16",
        "a batch of 8 MiB, a stream of lines, a WebSocket and an event stream go through the HAProxy that ships, and a hub behind it dies",
        "as D2",
        &["proxies::the_haproxy_that_ships_passes_everything_that_a_hub_takes"],
    ),
    row("D16b", "the same with the Caddy that ships", "as D2", &["proxies::the_caddy_that_ships_passes_everything_that_a_hub_takes"])
        .but("A stream of lines is tried with Caddy 2.7 or newer only: older ones break it over HTTP/1.1."),
    row(
        "D17",
        "a service manager starts a hub, and the database goes away, or the hub hangs",
        "the hub says when it is ready and stopping; the watchdog is reset without a database and not by a hub that hangs",
        &["service_manager::a_hub_says_that_it_is_ready_alive_and_stopping", "service_manager::a_hub_without_its_database_is_alive"],
    )
    .but("`app::service_manager::tests` has the hub that hangs."),
    row(
        "N9b",
        "the link to the database is silent for two seconds",
        "no living connection is replaced: silence alone is a doubt, and another connection is opened beside it",
        &["idle::a_silence_of_two_seconds_on_the_link_replaces_no_living_connection"],
    )
    .but("The time that readers of a pool wait follows the link's last answer; a test of the library holds it."),
    row(
        "D5b",
        "the URL in DATABASE_URL_FILE changes to a server that asks for the password in clear text, or does not answer, with sslmode=disable",
        "it is not followed and not told the password; the last one is used, and the log says why",
        &["reaching::a_url_that_changes_to_a_server_that_wants_the_password_in_clear_text_is_not_followed"],
    ),
    row(
        "R1",
        "clients read the past while a standby is given",
        "the standby reads the pages, the primary none",
        &[
            "standbys::pages_come_from_the_standby_and_the_primary_reads_none",
            "standbys::several_standbys_share_the_pages_and_the_fit_one_takes_over",
        ],
    ),
    row(
        "R2",
        "a standby replays no more",
        "it is left within a second, nothing is missing; it is used again when it has caught up",
        &["standbys::a_standby_that_replays_no_more_is_left_and_nothing_is_missing"],
    ),
    row(
        "R3",
        "a standby is frozen, killed or stopped while pages are read",
        "it is left within a second, the primary reads, no client sees an error",
        &["standbys::a_frozen_a_killed_and_a_stopped_standby_are_left_within_a_second_and_no_client_sees_an_error"],
    ),
    row(
        "R4",
        "a standby is promoted while the primary goes on, or the URL leads to no standby",
        "it is left, and none of its rows reaches a client; the log tells why",
        &[
            "standbys::a_promoted_standby_is_left_for_good_and_its_own_rows_reach_no_client",
            "standbys::a_url_that_leads_to_no_standby_is_told_and_the_primary_reads",
        ],
    ),
    row(
        "R5",
        "a notification or a user is erased, and a standby has not replayed it",
        "nothing of it is delivered; the primary reads until the standby has it",
        &["standbys::erased_content_is_not_delivered_from_a_standby_that_has_not_replayed_the_erasure"],
    ),
    row(
        "R6",
        "replay on a standby cancels a page (40001)",
        "the primary reads that page, no client sees an error",
        &["standbys::a_page_that_replay_cancels_comes_from_the_primary"],
    ),
    row(
        "R7",
        "an export reads from a standby, which lags behind an erasure, or is gone",
        "the export is whole, and holds nothing that was erased before it began",
        &["standbys::an_export_reads_from_a_standby_and_holds_nothing_that_was_erased"],
    ),
    row(
        "K1",
        "kill -9 of a consumer after it handled rows, before it acknowledges",
        "another process takes over within the lease; the rows come again, in order",
        &["consumers::a_killed_consumer_loses_nothing_and_another_process_takes_over"],
    ),
    row(
        "K2",
        "an owner of a consumer is slow, and another has taken over",
        "its acknowledgement and its renewal are refused and move nothing; without another owner they count",
        &["consumers::the_second_owner_waits_and_takes_over_when_the_lease_ends"],
    ),
    row(
        "K3",
        "a hub stops or dies while a fetch waits",
        "the fetch ends; the next one, at any hub, continues under the same lease",
        &[
            "consumers::a_waiting_fetch_is_woken_by_a_commit_of_any_hub_and_keeps_its_lease",
            "consumers::a_process_continues_when_its_hub_is_killed_and_another_runs_in_its_place",
        ],
    ),
    row(
        "K4",
        "retention drops rows before a consumer has acknowledged them",
        "410 expired with the range, until a person or the service moves the position",
        &["consumers::what_retention_dropped_is_told_and_passed_only_on_demand"],
    ),
    row(
        "K5",
        "the database is restored to a time before a consumer's last term",
        "409 reset until the position is moved; no acknowledgement of the old log counts",
        &["consumers::a_restored_log_is_told_and_no_old_term_counts_in_it"],
    ),
    row(
        "K6",
        "a transaction that consumed in SQL is rolled back, or its session is killed",
        "the position is where it was, the rows come again; others that fetch meanwhile do not wait",
        &[
            "consumers::a_login_consumes_in_its_own_transaction_and_may_do_nothing_else",
            "consumers::a_session_that_is_killed_in_its_transaction_leaves_the_position",
        ],
    ),
    row(
        "K7",
        "the command of recado consume --exec fails, or stdout is closed",
        "nothing is acknowledged; the batch comes again",
        &["consumers::a_batch_whose_command_fails_comes_again_and_a_gap_ends_the_process"],
    ),
    row(
        "W1",
        "kill -9 of the hub that posts for a webhook, in an attempt",
        "another hub repeats the post within the lease, under the same webhook-id",
        &["webhooks::ownership::the_post_of_a_hub_that_is_killed_is_repeated_by_another_one"],
    ),
    row(
        "W2",
        "the owner of a webhook is frozen in an attempt, and another has taken over",
        "the first sends nothing more, and its result is refused; the post stays until the present owner settles it",
        &[
            "webhooks::ownership::a_frozen_owner_that_wakes_stores_no_result",
            "webhooks::ownership::a_frozen_owner_whose_lease_has_ended_sends_nothing_when_it_wakes",
        ],
    ),
    row(
        "W3",
        "the hub that posts is stopped, or its connections to the database are ended",
        "its leases are given back, or it reconnects; each row is posted",
        &[
            "webhooks::ownership::of_two_hubs_one_posts_and_a_hub_that_stops_gives_its_webhooks_back",
            "webhooks::ownership::a_hub_whose_connections_to_the_database_are_ended_goes_on",
        ],
    ),
    row(
        "W4",
        "the receiver fails, asks for time, or fails for a day",
        "the post is repeated with growing waits, not before the time that was asked for, and becomes a dead letter",
        &[
            "webhooks::delivery::a_post_that_fails_is_repeated_under_its_id_with_growing_waits",
            "webhooks::delivery::a_receiver_may_ask_for_time_and_gets_no_other_post_meanwhile",
            "webhooks::delivery::a_post_that_fails_for_a_day_is_a_dead_letter_until_it_is_retried",
        ],
    ),
    row(
        "W5",
        "the receiver does not answer",
        "other webhooks are not delayed",
        &["webhooks::delivery::a_receiver_that_does_not_answer_delays_no_other"],
    ),
    row(
        "W6",
        "the receiver answers 410, redirects, or sends a head without end",
        "410 disables the webhook; the others are failed attempts, and no redirect is followed",
        &[
            "webhooks::states::a_webhook_whose_address_is_gone_is_disabled_until_it_is_resumed",
            "webhooks::delivery::redirects_are_not_followed_and_broken_answers_fail",
        ],
    ),
    row(
        "W7",
        "the name of a URL leads to an internal address, at once or later (DNS rebinding)",
        "nothing is dialled; the address that was checked is the one that is dialled",
        &[
            "webhooks::safety::internal_addresses_are_not_dialled_under_any_name",
            "webhooks::safety::a_name_is_resolved_once_and_the_checked_address_is_dialled",
            "webhooks::safety::a_hub_without_the_setting_dials_nothing_on_its_own_networks",
        ],
    ),
    row(
        "W8",
        "retention drops rows before a webhook has posted them",
        "the webhook goes on with the first row that is kept, and counts and logs what it missed",
        &["webhooks::states::what_retention_dropped_is_counted_and_passed"],
    ),
    row(
        "W9",
        "the database is restored",
        "nothing is posted until the webhook is resumed with a position; waiting posts of the other log are dropped",
        &["webhooks::states::after_a_restore_a_webhook_posts_nothing_until_it_gets_a_position"],
    ),
    row(
        "W10",
        "a hub has another key than the one that sealed the secret of a webhook, or the key was rotated",
        "it says so and leaves the webhook to other hubs; an owner with the new key seals the secret again",
        &[
            "webhooks::secrets::a_hub_with_another_key_says_so_and_leaves_the_webhook_to_others",
            "webhooks::secrets::a_secret_is_sealed_again_after_the_key_was_rotated",
        ],
    ),
];
