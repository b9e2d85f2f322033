-- The service's tables as the first format made them (before log_index could be searched by time,
-- subject, site, plan and release).

CREATE TABLE coordinator (
    id INTEGER NOT NULL,
    "key" TEXT NOT NULL,
    registered_by VARCHAR(70) NOT NULL,
    registered_at VARCHAR(30) NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE invitations (
    token_sha256 VARCHAR(64) NOT NULL,
    kit_sha256 VARCHAR(64) NOT NULL,
    site VARCHAR(70) NOT NULL,
    expires_at VARCHAR(30) NOT NULL,
    invited_by VARCHAR(70) NOT NULL,
    invited_at VARCHAR(30) NOT NULL,
    position INTEGER NOT NULL,
    spent_at VARCHAR(30),
    enrolment VARCHAR(71),
    PRIMARY KEY (token_sha256)
);

CREATE TABLE log_checkpoints (
    size INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (size)
);

CREATE TABLE log_entries (
    position INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (position)
);

CREATE TABLE log_hashes (
    level INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (level, position)
)
 WITHOUT ROWID;

CREATE TABLE log_meta (
    name VARCHAR(40) NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE principals (
    name VARCHAR(70) NOT NULL,
    roles VARCHAR(100) NOT NULL,
    token_sha256 VARCHAR(64) NOT NULL,
    created_by VARCHAR(70) NOT NULL,
    created_at VARCHAR(30) NOT NULL,
    expires_at VARCHAR(30),
    revoked_at VARCHAR(30),
    PRIMARY KEY (name),
    UNIQUE (token_sha256)
);

CREATE TABLE statements (
    digest VARCHAR(71) NOT NULL,
    kind VARCHAR(40) NOT NULL,
    envelope TEXT NOT NULL,
    filed_by VARCHAR(70) NOT NULL,
    filed_at VARCHAR(30) NOT NULL,
    position INTEGER NOT NULL,
    plan_id VARCHAR(71),
    PRIMARY KEY (digest),
    UNIQUE (position)
);

CREATE INDEX statements_by_plan ON statements (plan_id, kind, position);

CREATE TABLE log_index (
    position INTEGER NOT NULL,
    actor VARCHAR(70) NOT NULL,
    action VARCHAR(60) NOT NULL,
    object VARCHAR(200) NOT NULL,
    PRIMARY KEY (position),
    FOREIGN KEY(position) REFERENCES log_entries (position)
);

CREATE INDEX log_index_by_action ON log_index (action, position);

CREATE INDEX log_index_by_actor ON log_index (actor, position);

CREATE INDEX log_index_by_object ON log_index (object, position);

CREATE TABLE plans (
    plan_id VARCHAR(71) NOT NULL,
    state VARCHAR(20) NOT NULL,
    position INTEGER NOT NULL,
    decision VARCHAR(71),
    outcome VARCHAR(71),
    rounds_reported INTEGER NOT NULL,
    PRIMARY KEY (plan_id),
    FOREIGN KEY(plan_id) REFERENCES statements (digest),
    UNIQUE (position),
    FOREIGN KEY(decision) REFERENCES statements (digest),
    FOREIGN KEY(outcome) REFERENCES statements (digest)
);

CREATE INDEX ix_plans_state ON plans (state);

CREATE TABLE sites (
    name VARCHAR(70) NOT NULL,
    state VARCHAR(20) NOT NULL,
    federation VARCHAR(70) NOT NULL,
    identity_key TEXT NOT NULL,
    node_key TEXT NOT NULL,
    certificate_request TEXT NOT NULL,
    certificate TEXT,
    enrolment VARCHAR(71) NOT NULL,
    admission VARCHAR(71),
    PRIMARY KEY (name),
    FOREIGN KEY(enrolment) REFERENCES statements (digest),
    FOREIGN KEY(admission) REFERENCES statements (digest)
);

CREATE TABLE subject_requests (
    request_id VARCHAR(32) NOT NULL,
    kind VARCHAR(20) NOT NULL,
    site VARCHAR(70) NOT NULL,
    state VARCHAR(20) NOT NULL,
    sealed BLOB,
    subject VARCHAR(64),
    filed_by VARCHAR(70) NOT NULL,
    filed_at VARCHAR(30) NOT NULL,
    position INTEGER NOT NULL,
    done_at VARCHAR(30),
    erasure VARCHAR(71),
    PRIMARY KEY (request_id),
    UNIQUE (position),
    FOREIGN KEY(erasure) REFERENCES statements (digest)
);

CREATE INDEX ix_subject_requests_site ON subject_requests (site);

CREATE TABLE plan_sites (
    plan_id VARCHAR(71) NOT NULL,
    site VARCHAR(70) NOT NULL,
    PRIMARY KEY (plan_id, site),
    FOREIGN KEY(plan_id) REFERENCES plans (plan_id)
);

CREATE INDEX plan_sites_by_site ON plan_sites (site);

CREATE TABLE releases (
    release_id VARCHAR(71) NOT NULL,
    plan_id VARCHAR(71) NOT NULL,
    state VARCHAR(20) NOT NULL,
    position INTEGER NOT NULL,
    sealed_key BLOB NOT NULL,
    decision VARCHAR(71),
    PRIMARY KEY (release_id),
    FOREIGN KEY(release_id) REFERENCES statements (digest),
    FOREIGN KEY(plan_id) REFERENCES plans (plan_id),
    UNIQUE (position),
    FOREIGN KEY(decision) REFERENCES statements (digest)
);

CREATE INDEX ix_releases_plan_id ON releases (plan_id);

CREATE TABLE grants (
    release_id VARCHAR(71) NOT NULL,
    principal VARCHAR(70) NOT NULL,
    public_key BLOB NOT NULL,
    sealed_key BLOB NOT NULL,
    purpose VARCHAR(70) NOT NULL,
    granted_by VARCHAR(70) NOT NULL,
    granted_at VARCHAR(30) NOT NULL,
    expires_at VARCHAR(30) NOT NULL,
    revoked_at VARCHAR(30),
    downloads INTEGER NOT NULL,
    PRIMARY KEY (release_id, principal),
    FOREIGN KEY(release_id) REFERENCES releases (release_id),
    FOREIGN KEY(principal) REFERENCES principals (name)
);
