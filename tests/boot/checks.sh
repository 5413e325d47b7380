# What the service promises on a real systemd; sourced by `run`, in the order in which a
# machine's life goes: installed, configured, started, used, upgraded, in trouble, removed.

sim=http://127.0.0.1:9000
key=/etc/credstore/ibvwatch.yoti.pem
config=$root/etc/ibvwatch/config.d/test.toml

# The container's own, so that the machine needs none.
jq() { inside jq "$@"; }
show() { inside systemctl show ibvwatch --value --property="$1"; }
is() {
  local value
  value=$(show "$1")
  [ "$value" = "$2" ] || { echo "$1 is $value, not $2"; return 1; }
}
log() { inside journalctl --unit=ibvwatch --output=cat --no-pager "$@"; }
logged() { log --grep "$1" --case-sensitive=yes >/dev/null; }
api() { inside curl --silent --show-error --fail "$sim/_sim/$1" "${@:2}"; }
events() { inside journalctl --identifier=ibvwatch-events --output=cat --no-pager "$@"; }
# Reads to the end: whoever writes to a grep that has seen enough would fail, and the check with it.
has() { grep "$@" >/dev/null; }
happened() { events IBVWATCH_EVENT_TYPE="ibvwatch.$1" IBVWATCH_SESSION_ID="$2" | has .; }
told() { events IBVWATCH_SESSION_ID="$1" IBVWATCH_TO="$2" | has .; }
# A new session at the API, its id.
session() { api sessions --data '{"visit": "none"}' | jq -r '.sessions[0]'; }
as() { inside runuser --user "$1" -- "${@:2}"; }
pid() { show MainPID; }
# In the service's own view of the files; as root, whom only the view itself can stop.
in_its_view() { inside nsenter --target "$(pid)" --mount -- "$@"; }
# The same as the service's own user.
as_service() {
  local ids
  ids=$(inside stat --format='%u %g' "/proc/$(pid)")
  in_its_view setpriv --reuid "${ids% *}" --regid "${ids#* }" --clear-groups -- "$@"
}
fails() { if "$@"; then echo "it should have failed: $*"; return 1; fi; }

# --- installed -------------------------------------------------------------------------------

install() {
  inside env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet "/packages/$1.deb" 2>&1
}
installs_and_says_what_to_do() {
  local said
  said=$(install old)
  echo "$said"
  grep -q 'systemctl enable --now ibvwatch' <<<"$said"
  grep -q '/etc/ibvwatch/config.toml' <<<"$said"
}
check "apt installs the package, which says what to do next" installs_and_says_what_to_do

nothing_runs() {
  is ActiveState inactive
  is UnitFileState disabled
  fails inside test -e /var/lib/private/ibvwatch
}
check "it starts nothing without a configuration" nothing_runs

has_its_documents() {
  inside test -s /usr/share/man/man1/ibvwatch.1.gz
  inside test -s /usr/share/bash-completion/completions/ibvwatch
  inside test -s /usr/share/doc/ibvwatch/INSTALL.md
  inside test -s /usr/share/doc/ibvwatch/copyright
  inside dpkg-query --show --showformat='${Conffiles}' ibvwatch | has /etc/ibvwatch/config.toml
}
check "it brings a manual page, completions, documents, a licence and conffiles" has_its_documents

# refuses KEY: the service fails for good and the journal names the key.
refuses() {
  inside systemctl start ibvwatch || true
  # Longer than RestartSec=.
  sleep 4
  is ActiveState failed
  is ExecMainStatus 78
  is NRestarts 0
  logged "$1"
  inside systemctl reset-failed ibvwatch
}
check "unconfigured, it ends with status 78, is not restarted, and names api.sdk_id" refuses 'api\.sdk_id: required'

# --- configured and started ------------------------------------------------------------------

configure() {
  mkdir -p "$root/etc/ibvwatch/config.d"
  cat >"$config"
}
configure <<EOF
[api]
sdk_id = "00000000-0000-4000-8000-000000000000"
base_url = "$sim/idverify/v1"
[poll]
interval = "1s"
active_interval = "1s"
EOF
check "without a key, it ends with status 78 and names the key's setting" refuses 'api\.auth\.private_key_file: required'

inside mkdir -p "${key%/*}"
inside openssl genrsa -out "$key" 2048 2>/dev/null
inside chmod 600 "$key"
inside useradd --groups ibvwatch-sessions member
inside useradd stranger
inside systemd-run --quiet --unit=simulator -- \
  /usr/bin/ibvwatch simulate --listen 127.0.0.1:9000 --key "$key"
within 20 api sessions

printf 'poll.intervall = "1s"\n' >"$root/etc/ibvwatch/config.d/wrong.toml"
check "with a broken configuration as well, and it names the key" refuses 'poll\.intervall: unknown key'
rm "$root/etc/ibvwatch/config.d/wrong.toml"

# The poll loop begins after this pause, which is part of the start.
mkdir -p "$root/etc/systemd/system/ibvwatch.service.d"
cat >"$root/etc/systemd/system/ibvwatch.service.d/slow.conf" <<'EOF'
[Service]
ExecStart=
ExecStart=/bin/sh -c 'sleep 3; exec /usr/bin/ibvwatch run'
EOF
is_active_only_when_ready() {
  inside systemctl daemon-reload
  inside systemctl enable --quiet ibvwatch
  inside systemctl start --no-block ibvwatch
  within 10 is SubState start
  sleep 1
  is ActiveState activating
  within 30 is ActiveState active
  is UnitFileState enabled
  within 5 started
}
started() {
  logged 'ibvwatch is running'
  show StatusText | grep '^Sessions: '
}
check "it is active only once it says that it is ready" is_active_only_when_ready
rm "$root/etc/systemd/system/ibvwatch.service.d/slow.conf"
inside systemctl daemon-reload
check "systemctl restart brings it back" inside systemctl restart ibvwatch

# --- used ------------------------------------------------------------------------------------

first=$(session)
drops_a_file() {
  as member ibvwatch track "$first" --label case=A-17
  within 15 happened session.observed "$first"
  api "sessions/$first/resources/0" --data '{"state": "IN_PROGRESS"}' >/dev/null
  within 15 told "$first" IN_PROGRESS
}
check "a session file dropped by a member of the group leads to events in the journal" drops_a_file

are_valid() {
  local ids
  events >"$work/events"
  [ -s "$work/events" ]
  jq --exit-status --slurp 'length > 2 and all(.specversion == "1.0" and .source == "ibvwatch"
    and (.type | startswith("ibvwatch.")) and (.sequence | test("^[0-9]{20}$"))
    and .id == "\(.subject)/\(.data.session_sequence)")' <"$work/events"
  inside ibvwatch events | cmp - "$work/events"
  inside journalctl IBVWATCH_SESSION_ID="$first" --output=cat | grep -c "\"$first\""
}
check "journalctl prints the events, valid and as they are recorded, and finds one session's" are_valid

a_plain_file_will_do() {
  local id
  id=$(session)
  as member sh -c "echo '\"$id\"' >/etc/ibvwatch/sessions.d/by-hand.json"
  within 15 happened session.observed "$id"
  as member rm /etc/ibvwatch/sessions.d/by-hand.json
  within 30 happened session.ended "$id"
}
check "a file that the member wrote by hand is as good, and its removal ends the session" a_plain_file_will_do

guards_its_files() {
  fails as stranger sh -c 'echo x >/etc/ibvwatch/sessions.d/x.json'
  fails as stranger ls /etc/ibvwatch/sessions.d
  for user in member stranger; do
    fails as "$user" cat "$key"
    fails as "$user" cat /run/credentials/ibvwatch.service/yoti.pem
    fails as "$user" ls /var/lib/ibvwatch/
    fails as "$user" ls /var/lib/private/ibvwatch/
    fails as "$user" sh -c 'echo >>/etc/ibvwatch/config.toml'
  done
}
check "nobody else writes session files, and not even the group reads key or database" guards_its_files

answers_commands() {
  inside ibvwatch sessions | grep "$first"
  inside ibvwatch show "$first" | grep IN_PROGRESS
  inside curl --silent --fail http://127.0.0.1:9478/readyz
}
check "root's commands and /readyz answer" answers_commands

# --- as the service sees it ------------------------------------------------------------------

files_are_read_only() {
  local path
  for path in / /usr /etc /etc/ibvwatch /etc/ibvwatch/sessions.d /var /root /home; do
    fails in_its_view touch "$path/written"
  done
  in_its_view touch /var/lib/ibvwatch/written
  in_its_view rm /var/lib/ibvwatch/written
  in_its_view findmnt --noheadings --output OPTIONS / | grep -E '^ro(,|$)'
}
check "the root file system is read-only to it, and only its state is not" files_are_read_only

key_is_a_credential() {
  local credential=/run/credentials/ibvwatch.service/yoti.pem
  fails as_service cat "$key"
  as_service cat "$credential" | has 'BEGIN .*PRIVATE KEY'
  fails as_service sh -c "echo >>$credential"
}
check "it reads the key as its credential and in no other way" key_is_a_credential

holds_no_powers() {
  local status
  status=$(inside cat "/proc/$(pid)/status")
  echo "$status"
  for set in CapInh CapPrm CapEff CapBnd CapAmb; do
    grep -qE "^$set:\s+0+$" <<<"$status"
  done
  grep -qE '^NoNewPrivs:\s+1$' <<<"$status"
  grep -qE '^Seccomp:\s+2$' <<<"$status"
  fails grep -qE '^Uid:\s+0\s' <<<"$status"
}
check "it has no capabilities, gains none, runs filtered and not as root" holds_no_powers

dumps_no_core() {
  inside cat "/proc/$(pid)/limits" | grep -E '^Max core file size +0 +0 '
  [ "$(inside cat "/proc/$(pid)/coredump_filter")" = 00000000 ]
}
check "it dumps no core" dumps_no_core

exposure=$(inside systemd-analyze security --offline=true --threshold=11 --no-pager \
  /usr/lib/systemd/system/ibvwatch.service | tail -n 1) || true
echo "     $exposure"
check "its exposure is within 1.1" inside systemd-analyze security --offline=true --threshold=11 \
  --no-pager /usr/lib/systemd/system/ibvwatch.service

# --- upgraded --------------------------------------------------------------------------------

stands() { inside ibvwatch show "$first" --json | jq --compact-output '[.session_id, .phase, .resources]'; }
upgrade_keeps_everything() {
  local before events_before pid_before after
  before=$(stands)
  events_before=$(events | wc -l)
  pid_before=$(pid)
  install new
  within 30 is ActiveState active
  [ "$(pid)" != "$pid_before" ]
  logged 'stopped$'
  after=$(stands)
  echo "$before and then $after"
  [ "$before" = "$after" ]
  api "sessions/$first/resources/0" --data '{"state": "COMPLETE"}' >/dev/null
  within 15 told "$first" COMPLETE
  # What was delivered before is not delivered again: the cursor was kept.
  [ "$(events | wc -l)" -gt "$events_before" ]
  [ -z "$(events | sort | uniq --repeated)" ]
  [ "$(show NRestarts)" = 0 ]
}
check "an upgrade restarts it, and keeps sessions and cursor" upgrade_keeps_everything

# --- in trouble ------------------------------------------------------------------------------

reloads() {
  local before
  before=$(pid)
  configure <<EOF
[api]
sdk_id = "00000000-0000-4000-8000-000000000000"
base_url = "$sim/idverify/v1"
[poll]
interval = "1h"
active_interval = "1h"
EOF
  inside systemctl reload ibvwatch
  within 10 logged 'configuration reloaded'
  # Polls that were due by the shorter interval go out, and then there is silence.
  sleep 3
  local asked
  asked=$(requests)
  sleep 4
  [ "$(requests)" = "$asked" ]
  sed -i 's/"1h"/"1s"/' "$config"
  inside systemctl reload ibvwatch
  within 10 more_requests_than "$asked"
  is MainPID "$before"
  is ActiveState active
}
requests() { api sessions/"$first" | jq .requests; }
more_requests_than() { [ "$(requests)" -gt "$1" ]; }
check "systemctl reload applies a new interval" reloads

keeps_running() {
  local before
  before=$(pid)
  printf 'poll.interval = "soon"\n' >"$root/etc/ibvwatch/config.d/wrong.toml"
  inside systemctl reload ibvwatch
  within 10 logged 'poll\.interval: "soon" is not a duration'
  rm "$root/etc/ibvwatch/config.d/wrong.toml"
  within 10 is ActiveState active
  is MainPID "$before"
}
check "a reload that is wrong is refused, and it runs on" keeps_running

same_events_everywhere() {
  inside ibvwatch events >"$work/recorded"
  events | sort --unique >"$work/told"
  # As often as they like, but each the same to the byte, and none missing.
  sort "$work/recorded" | diff - "$work/told"
  jq --exit-status --slurp '[.[] | select(.subject)] | group_by(.subject)
    | all(map(.data.session_sequence) | sort == [range(1; length + 1)])' <"$work/recorded"
}
ends_by_the_watchdog() {
  local stopped restarts
  stopped=$(pid)
  restarts=$(show NRestarts)
  inside sh -c "kill -STOP $stopped"
  api "sessions/$first/resources/1" --data '{"state": "IN_PROGRESS"}' >/dev/null
  within 90 is NRestarts "$((restarts + 1))"
  logged "Failed with result 'watchdog'"
  within 30 is ActiveState active
  [ "$(pid)" != "$stopped" ]
  within 15 told_of "$first" 'from.*REQUIRED.*to.*IN_PROGRESS' 2
  same_events_everywhere
}
# told_of SESSION PATTERN TIMES: at least so many events match.
told_of() { [ "$(events IBVWATCH_SESSION_ID="$1" | grep -c "$2")" -ge "$3" ]; }
check "a daemon that stands still ends by the watchdog and is started again, with every event once" ends_by_the_watchdog

takes_an_encrypted_key() {
  inside systemd-creds encrypt --name=yoti.pem "$key" /etc/credstore.encrypted/ibvwatch.yoti.pem
  inside rm "$key"
  cat >"$root/etc/systemd/system/ibvwatch.service.d/key.conf" <<'EOF'
[Service]
LoadCredentialEncrypted=yoti.pem:ibvwatch.yoti.pem
EOF
  inside systemctl daemon-reload
  inside systemctl restart ibvwatch
  local asked
  asked=$(requests)
  within 10 more_requests_than "$asked"
}
inside mkdir -p /etc/credstore.encrypted
check "it takes a key that is encrypted at rest" takes_an_encrypted_key

crowd=100000
all_arrive() {
  inside sh -c "i=0; while [ \$i -lt $crowd ]; do printf '\"%08x-0000-4000-8000-000000000000\"\n' \$i; i=\$((i + 1)); done" |
    jq --slurp --compact-output . >"$root/etc/ibvwatch/sessions.d/.crowd"
  chgrp --reference="$root/etc/ibvwatch/sessions.d" "$root/etc/ibvwatch/sessions.d/.crowd"
  chmod 640 "$root/etc/ibvwatch/sessions.d/.crowd"
  mv "$root/etc/ibvwatch/sessions.d/.crowd" "$root/etc/ibvwatch/sessions.d/crowd.json"
  within 180 crowd_is_there
  # Long enough for a line too many to come.
  sleep 2
  [ "$(crowd_told | wc -l)" = "$crowd" ]
  fails logged 'Suppressed .* messages'
}
crowd_told() { events IBVWATCH_EVENT_TYPE=ibvwatch.session.tracked | grep -- '-0000-4000-8000-000000000000/1"'; }
crowd_is_there() {
  local arrived
  arrived=$(crowd_told | sort --unique | wc -l)
  echo "$arrived of $crowd"
  [ "$arrived" = "$crowd" ]
}
check "$crowd events arrive in the journal $crowd times" all_arrive

stops_gracefully() {
  api faults --data '{"effect": "hang"}' >/dev/null
  within 10 requests_hang
  local began=$SECONDS
  inside systemctl stop ibvwatch
  echo "took $((SECONDS - began)) s"
  [ $((SECONDS - began)) -le 10 ]
  is Result success
  is ActiveState inactive
  is ExecMainStatus 0
  logged 'stopped$'
}
requests_hang() { api requests | jq --exit-status '.in_flight > 0'; }
check "systemctl stop is over within 10 s, also while the API hangs" stops_gracefully

serves_root_while_it_is_stopped() {
  inside ibvwatch show "$first" | grep COMPLETE
  inside systemctl start ibvwatch
  is ActiveState active
  inside systemctl stop ibvwatch
}
check "what root reads while it is stopped leaves nothing in its way" serves_root_while_it_is_stopped

# --- removed ---------------------------------------------------------------------------------

apt() { inside env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet "$@" 2>&1; }
remove_keeps_state() {
  inside systemctl start ibvwatch
  apt remove ibvwatch
  fails inside test -e /usr/bin/ibvwatch
  fails inside systemctl is-active --quiet ibvwatch
  inside test -s /var/lib/private/ibvwatch/ibvwatch.db
  inside test -s /etc/ibvwatch/config.toml
}
check "apt remove stops it and keeps state and configuration" remove_keeps_state

purge_leaves_nothing() {
  local left
  apt purge ibvwatch
  left=$(inside find / -xdev \( -path /proc -o -path /sys -o -path /packages \) -prune -o -iname '*ibvwatch*' -print)
  echo "$left"
  [ -z "$left" ]
  fails inside getent group ibvwatch-sessions
}
check "apt purge leaves nothing" purge_leaves_nothing
