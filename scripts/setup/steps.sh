# Sourced by scripts/setup.sh: runs named steps with progress, times and a log each.
# A step that fails ends the set-up with the tail of its log.

# setup_fail MESSAGE...: one sentence that says what is missing and what to do, then exit 1.
setup_fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# seconds_since START: seconds with one decimal since START (a value of $EPOCHREALTIME).
seconds_since() {
  local now=${EPOCHREALTIME/[.,]/} then=${1/[.,]/}
  local tenths=$(((now - then + 50000) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# step TITLE COMMAND...: runs COMMAND with its output in a log; prints a sign of life every 5 s and the time at the end.
# A command that writes a line "note: ..." has that line shown beside the time.
step() {
  local title=$1 started=$EPOCHREALTIME log pid status=0 note waited=0
  shift
  log="$CACHE/log/setup-$(printf '%s' "$title" | tr -c 'a-z0-9\n' '-').log"
  printf 'setup: %s ...\n' "$title"
  ("$@") >"$log" 2>&1 </dev/null &
  pid=$!
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null; exit 130" INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    waited=$((waited + 1))
    if ((waited % 50 == 0)); then
      printf 'setup: %s: %s s: %s\n' "$title" "$((waited / 10))" "$(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1 | cut -c 1-90)"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if ((status != 0)); then
    printf 'setup: %s failed after %s s; from %s:\n' "$title" "$(seconds_since "$started")" "$log" >&2
    # The cause is at the start or at the end, depending on the program.
    if (($(wc -l <"$log") > 50)); then
      { head -n 15 "$log" && echo ... && tail -n 25 "$log"; } | sed 's/^/    /' >&2
    else
      sed 's/^/    /' "$log" >&2
    fi
    exit 1
  fi
  note=$(sed -n 's/^note: //p' "$log" | tail -n 1)
  printf 'setup: %s: done in %s s%s\n' "$title" "$(seconds_since "$started")" "${note:+ ($note)}"
}
