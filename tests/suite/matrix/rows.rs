//! The rows, in plain data.

pub struct Row {
    pub number: &'static str,
    pub fault: &'static str,
    pub holds: &'static str,
    pub tests: &'static [&'static str],
    /// What the tests leave out, or why there is none.
    pub note: Option<&'static str>,
}

const fn row(number: &'static str, fault: &'static str, holds: &'static str, tests: &'static [&'static str]) -> Row {
    Row { number, fault, holds, tests, note: None }
}

impl Row {
    const fn but(mut self, note: &'static str) -> Self {
        self.note = Some(note);
        self
    }
}

pub const ROWS: &[Row] = &[
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
    .but("200 devices; `recado bench resume` for more"),
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
    row("F64", "the server of public keys is down, its keys change", "known keys go on, few questions", &[])
        .but("tokens are signed with a secret that the hub is given; it asks no server for keys"),
];
