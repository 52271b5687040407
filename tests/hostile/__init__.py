"""Hostile clients, hostile callers and failing listeners, on a server in a process of its own, over plain sockets.

Around every attack stands `tests.hostile.attack.under_attack`: a bystander receives everything meanwhile, in order and
in time, and afterwards sockets, tasks and memory are what they were. `target` is each of both paths, the gateway's own
server and a mounted gateway under plain uvicorn; a test that takes `own` says why the other cannot hold.

Clients and callers
  handshakes that are malformed       test_handshakes: a_malformed_handshake, a_wrong_version
  slow handshakes                     test_handshakes: slow_handshakes, an_on_handshake_that_sleeps
  heads without end                   test_handshakes: a_head_of_twenty_megabytes; sizes: tests/test_guards.py
  foreign origins                     test_handshakes: a_foreign_origin
  lengths that cannot be              test_frames: a_length_that_cannot_be
  messages at the limit, and past it  test_frames: a_message_at_the_limit, one_byte_more
  fragments                           test_frames: a_million_empty_fragments, fragments_of_two_bytes
  pings whose pongs nobody reads      test_frames: forty_megabytes_of_pings
  deflate: bombs, corrupt, no UTF-8   test_frames: compressed_messages_that_are_bad
  invalid UTF-8                       test_frames: a_hundred_messages_of_invalid_utf8
  binary where text is expected       test_frames: binary_reaches_the_hook
  never reads, reads 1 KB/s           test_slow_clients: who_does_not_read
  stopped process                     test_slow_clients: a_process_that_is_stopped
  FIN and RST without a close         test_slow_clients: clients_that_end_without_a_close
  vanishing during accept             test_slow_clients: clients_that_vanish_while_they_are_accepted
  vanishing between queue and send    test_slow_clients: clients_that_vanish_before_their_answer
  2,000 connects and closes           test_crowds: two_thousand_connects
  many sockets of one address         test_crowds: past_its_cap
  10,000 messages a second            test_crowds: a_client_that_sends_ten_thousand
  /send: falsy messages               test_callers: falsy_messages
  /send: surrogates, odd texts        test_callers: what_cannot_be_sent, odd_texts; more: tests/test_routes.py
  /send: bodies without end           test_callers: a_body_that_is_too_large, a_body_that_is_too_slow
  requests without end                test_callers: requests_without_end
  /send: ids and tokens               test_callers: an_id_that_is_none, a_wrong_token
  foreign pages, foreign Host         test_callers: a_foreign_page
  CR LF, ANSI, script, %s             test_callers: nobody_writes_lines; the panel: tests/test_admin_panel.py
  every route of /api and the panel   tests/test_api.py, tests/test_admin_panel.py
  Centrifuge: junk, silence           test_centrifuge: junk_of_every_kind, clients_that_never_connect
  Centrifuge: many subscriptions      test_centrifuge: a_thousand_subscribe_and_unsubscribe
  Centrifuge: floods, deep nesting    test_centrifuge: frames_of_many_commands, frames_that_are_expensive
  Centrifuge: no pongs                test_centrifuge: clients_that_answer_no_ping
  Centrifuge: streams, emulation      test_centrifuge: a_cf_connect, ten_thousand_posts; more: tests/test_emulation.py
  Centrifuge: foreign origins         test_centrifuge: another_site
  Centrifuge: CR, LF, data:           test_centrifuge: no_payload_injects
  Centrifuge: vanishing               test_centrifuge: clients_that_vanish_while_they_connect
  login 20 times a second            tests/test_admin_panel.py, tests/test_admin_passwords.py

Faults
  a hook raises                       test_hooks: a_hook_that_raises
  a hook waits for ever               test_hooks: a_hook_that_waits_for_ever; test_frames: a_hook_that_is_slow
  a hook blocks the loop              test_hooks: a_hook_that_blocks_the_loop
  a hook returns anything             test_hooks: what_a_hook_returns
  a hook stops its own gateway        test_hooks: a_hook_that_stops, a_hook_that_restarts
  the clock goes back                 test_clock
  the settings file is broken         tests/test_store.py, tests/test_instances.py
  the port is taken, later freed      tests/test_server.py, tests/test_instances.py
"""
