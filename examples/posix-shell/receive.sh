#!/bin/sh
# Takes what waits for a name or a role, prints each message as a line of JSON, and acknowledges it once it is printed.

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
# shellcheck source=lib.sh
. "$here/lib.sh"

USAGE='usage: receive.sh [--dir STATE_DIR] [--timeout S] ADDRESS
ADDRESS is a name or @ROLE. S is how many seconds to wait for the first message [0].'
PAUSE=0.1
DELIVERIES=5

me=   # our id, while we hold its lock
held= # the file that we have claimed and not yet settled

# Being there

draw() { # takes the life lock of a fresh id, on descriptor 9: if we die with a message, others can prove it
  for _ in 1 2 3 4 5 6 7 8; do
    drawn=$(openssl rand -hex 4)
    lock=$state/instances/$drawn.lock
    # `command` keeps the shell alive where the id is taken. The braces keep stderr as it is.
    { command exec 9>"$lock"; } 2>/dev/null || continue
    # Before we had it locked, somebody may have cleared it away as left behind.
    if flock -w 1 9 && [ "/proc/$$/fd/9" -ef "$lock" ]; then
      me=$drawn
      return
    fi
    exec 9>&-
  done
  fail 6 "$state/instances: no lock can be taken"
}

leave() {
  trap '' HUP INT TERM PIPE
  [ -z "$held" ] || give_back "$held"
  [ -z "$me" ] || rm -f "$lock" # still locked: nobody can draw the id in between
}

# One message

is_message_name() { # FILE
  stem=${1%.json}
  case $stem in
    [!A-Za-z0-9_-]* | *[!A-Za-z0-9_.~-]* | *~*~*) return 1 ;;
    *~*) case ${stem#*~} in '' | 0* | *[!0-9]* | ??????????*) return 1 ;; esac ;;
  esac
  stem=${stem%%~*}
  [ -n "$stem" ] && [ "${#stem}" -le 160 ]
}

is_whole() { # whether what is signed has exactly the members of a message, in their order; sets text
  case $signed in *\\00[0-3]?*) return 1 ;; esac
  string='"([^"\\]|\\(["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"'
  head="^\\{\"id\":\"[A-Za-z0-9_-]{1,64}\",\"from_agent\":$string,\"to_agent\":($string|null)"
  head="$head,\"message_type\":$string,\"timestamp\":$string"
  head="$head(,\"reply_to\":\"[A-Za-z0-9_-]{1,64}\")?(,\"expires_ns\":[0-9]{1,18},\"boot_id\":\"[^\"\\]*\")?,\"payload\":"
  text=$(printf %b "$signed")
  payload=$(printf '%s\n' "$text" | sed -E -n "s#$head##p")
  [ -n "$payload" ] && [ "$payload" = "$(printf %s "$payload" | compact)" ]
}

check() { # PATH: sets signed, or reason. It is read once: what is verified is what is printed
  reason='is a symbolic link' && [ ! -L "$1" ] || return
  reason='is not a regular file of ours' && passes "$1" -type f -links 1 || return
  octets=$(head -c $((LIMIT + 1)) "$1" 2>/dev/null | as_octets)
  size=$((${#octets} / 5))
  reason="is larger than $LIMIT bytes" && [ "$size" -le "$LIMIT" ] || return
  reason="is not signed with this fleet's key" && [ "$size" -gt "$SEAL" ] || return
  signed=$(printf %s "$octets" | head -c $(((size - SEAL) * 5)))
  seal=$(printf %b "${octets#"$signed"}") # a NUL in it makes it too short to be equal
  [ "$seal" = ",\"signature\":\"$(printf %b "$signed" | sign)\"}" ] || return
  reason='is not compact JSON with the members of a message' && is_whole || return
  reason='is addressed to somebody else'
  case $text in *\",\"to_agent\":\"$address\",\"message_type\":*) ;; *) return 1 ;; esac
}

has_expired() { # whether its time is over: CLOCK_BOOTTIME of its boot, which is what /proc/uptime counts
  case $text in *',"expires_ns":'*',"boot_id":"'*'","payload":'*) ;; *) return 1 ;; esac
  rest=${text%%',"payload":'*}
  boot=${rest##*',"boot_id":"'} rest=${rest##*',"expires_ns":'}
  read -r this_boot </proc/sys/kernel/random/boot_id
  [ "${boot%\"}" = "$this_boot" ] || return 0 # nobody can tell how long ago that was
  look
  [ "$((now * 10000000))" -ge "${rest%%,*}" ]
}

was_acknowledged() { # ID
  for log in "$box/acknowledged" "$box/acknowledged.1"; do
    ! passes "$log" -type f -links 1 || ! grep -q -x -F -e "$1" "$log" || return 0
  done
  return 1
}

acknowledge() { # FILE ID: the id first, so that it is not handed out again if we die between the two
  if [ ! -e "$box/acknowledged" ] || passes "$box/acknowledged" -type f -links 1; then
    printf '\n%s\n' "$2" >>"$box/acknowledged"
  fi
  rm -f "$box/claimed/$me.$1"
}

set_aside() { # FOLDER FILE REASON
  folder "$queue/$1"
  kept=$queue/$1/$(printf %s "${box##*/}" | head -c 60).$(printf %s "$2" | tail -c 160)
  aside=$kept number=1
  while [ -e "$aside" ] || [ -L "$aside" ]; do
    number=$((number + 1))
    aside=$kept.$number
  done
  mv "$box/claimed/$me.$2" "$aside" 2>/dev/null || return # not ours yet, or no more
  printf '%s\n' "$3" >"$aside.reason"
  printf 'receive.sh: %s %s\n' "$2" "$3" >&2
}

give_back() { # FILE: as its next delivery
  stem=${1%.json} delivery=1
  case $stem in *~*) delivery=${stem#*~} ;; esac
  if [ "$delivery" -ge "$DELIVERIES" ]; then
    set_aside dead_letter "$1" "handed out $delivery times and never acknowledged"
  else
    mv "$box/claimed/$me.$1" "$box/new/${stem%%~*}~$((delivery + 1)).json" 2>/dev/null && ring
  fi
}

take() { # FILE
  held=$1 # before the rename: a signal may come right after it
  if ! mv "$box/new/$1" "$box/claimed/$me.$1" 2>/dev/null; then
    held= # another was first
    return
  fi
  if ! check "$box/claimed/$me.$1"; then
    set_aside quarantine "$1" "$reason"
  else
    id=${text#*:\"} id=${id%%\"*}
    if was_acknowledged "$id"; then
      rm -f "$box/claimed/$me.$1"
    elif has_expired; then
      set_aside dead_letter "$1" 'expired: its time was over before it was handled'
    else
      printf '%b}\n' "$signed" || exit 1 # nobody reads: it is given back
      acknowledge "$1" "$id"
      taken=$((taken + 1))
    fi
  fi
  held=
}

# Waiting

look() { # sets now, in hundredths of a second by a clock that does not jump
  read -r now _ </proc/uptime
  now=${now%.*}${now#*.}
}

take_all() { # HUNDREDTHS: all that waits as soon as something does
  look
  deadline=$((now + $1)) taken=0
  while :; do
    for path in "$box"/new/*.json; do
      ! is_message_name "${path##*/}" || take "${path##*/}"
    done
    [ "$taken" -eq 0 ] || return 0
    look
    [ "$now" -lt "$deadline" ] || fail 5 "nothing waits for $address"
    sleep "$PAUSE"
  done
}

main() {
  dir='' timeout=0
  while :; do
    case ${1-} in
      --dir) [ "$#" -ge 2 ] || fail 2 "$USAGE"; dir=$2 && shift 2 ;;
      --dir=*) dir=${1#*=} && shift ;;
      --timeout) [ "$#" -ge 2 ] || fail 2 "$USAGE"; timeout=$2 && shift 2 ;;
      --timeout=*) timeout=${1#*=} && shift ;;
      -h | --help) printf '%s\n' "$USAGE" && exit ;;
      --) shift && break ;;
      -*) fail 2 "$USAGE" ;;
      *) break ;;
    esac
  done
  [ "$#" -eq 1 ] || fail 2 "$USAGE"
  address=$1
  ! is_id "$address" || fail 2 "an id's messages are its instance's own"
  case $timeout in '' | . | *[!0-9.]* | *.*.* | ??????????*) fail 2 '--timeout takes seconds' ;; esac
  need openssl awk flock
  find_state "$dir"
  find_box "$address"
  read_secret
  derive
  make_box
  folder "$state/instances"
  trap leave EXIT
  trap 'exit 130' INT
  trap 'exit 143' HUP TERM
  trap 'exit 1' PIPE
  draw
  # The lock must end with us, and programs that we start inherit descriptor 9. Closed for the length of a function, the shell
  # keeps it under another number that they do not inherit.
  take_all "$(awk "BEGIN { printf \"%d\", $timeout * 100 }")" 9>&-
}

main "$@"
