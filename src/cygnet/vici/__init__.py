"""VICI, the control socket that strongSwan's tools speak: `codec`, `server`, `client`, `shapes`, `messages`.

Commands and events are strongSwan's. What Cygnet says beyond them, and nobody else needs to know:

    load-conn          children may hold `acl` and `sa`, the connection `acls` (number = rule)
    initiate, rekey,   when they fail, beside `errmsg`: `reason`, `detail`, `ours`, `theirs`, `first`
    terminate          (`shapes.failure`)
    rekey              `wait = yes` answers when it is done, `timeout` as for initiate
    list-failures      `{ike, child}` → an event `ike-failure` for each that is remembered, newest last
    daemon-stats       counters of the daemon, drops by reason, lag of its loop
    get-certs          → `{certs: {<SHA-256, hex>: {subject, not-after, ca}}}`
    unload-cert        `{id: <SHA-256, hex>}`
    list-conn          `proposals`, and in children `start_action`, `esp_proposals`, `rules`
    list-sa            in children `rule`: the access list rule that it came from
    event ike-message  each IKE message, decoded (`messages.ike_message`)
    event ike-failure  a negotiation that did not come about (`shapes.ike_failure`)
    event certificate-expires  a certificate of ours or of a CA ends (`shapes.certificate_expires`)
    event ike-drop     a datagram that was dropped in silence (`shapes.ike_drop`)
"""
