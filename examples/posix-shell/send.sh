#!/bin/sh
# Sends one signed message. Prints its id.

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
# shellcheck source=lib.sh
. "$here/lib.sh"

USAGE='usage: send.sh [--dir STATE_DIR] ADDRESS TYPE [JSON_PAYLOAD]
ADDRESS is an instance id, a name or @ROLE. MNEMOSYNE_INSTANCE is the name to send under [shell].'

is_utf8() { # OCTETS
  more='\\02..'
  two="\\\\0(30[2-7]|3[123].)$more"
  three="(\\\\0340\\\\02[4-7].|\\\\0(34[1-7]|35[0-4]|35[67])$more|\\\\0355\\\\02[0-3].)$more"
  four="(\\\\0360\\\\02[2-7].|\\\\036[1-3]$more|\\\\0364\\\\020.)$more$more"
  printf '%s\n' "$1" | grep -E -q "^(\\\\0[01]..|$two|$three|$four)*\$"
}

is_type() { # TEXT: 1 to 64 characters, not all of them spaces, none of them a control character
  text=$(printf %s "$1" | as_octets)
  characters=$(printf %s "$text" | sed 's/\\02..//g') # without the second and later bytes of each
  case $text in *\\00[0-3]?* | *\\0177* | *\\0302\\02[0-3]?*) return 1 ;; esac
  case $1 in *[!\ ]*) [ "${#characters}" -le 320 ] ;; *) return 1 ;; esac
}

is_held() { # LOCK_FILE. Opened for reading: closing a file that was open for writing wakes the whole fleet
  passes "$1" -type f || return
  (flock -s -n -E 75 9) 9<"$1"
  [ "$?" -eq 75 ]
}

need_instance() { # ID
  is_private "$box" -type d || unknown "$1"
  grep -q -F "\"$1\":{" "$state/process_registry.json" 2>/dev/null || unknown "$1"
  is_held "$state/instances/$1.lock" || unknown "$1"
}

unknown() { fail 3 "$1: no live instance has this id"; }

compose() { # ADDRESS TYPE PAYLOAD: sets stamp, id and sealed
  clock=$(date -u '+%s%N %Y-%m-%dT%H:%M:%SZ')
  case ${clock% *} in *[!0-9]*) fail 7 'date is not that of GNU coreutils' ;; esac
  stamp=$(printf %016x "${clock% *}")
  id=$stamp-$(openssl rand -hex 4)
  signed=$(printf '{"id":"%s","from_agent":"%s","to_agent":"%s"' "$id" "$sender" "$1")
  signed=$signed,\"message_type\":\"$(printf %s "$2" | sed 's/["\\]/\\&/g')\"
  signed=$signed,\"timestamp\":\"${clock#* }\",\"payload\":$3
  is_utf8 "$(printf %s "$signed" | as_octets)" || fail 2 'TYPE and JSON_PAYLOAD must be UTF-8'
  size=$((${#signed} + SEAL))
  [ "$size" -le "$LIMIT" ] || fail 2 "the message has $size bytes, $LIMIT are allowed"
  sealed="$signed,\"signature\":\"$(printf %s "$signed" | sign)\"}"
  [ "${#sealed}" -eq "$size" ] || fail 7 'openssl does not compute SHA-256'
}

publish() { # ADDRESS: the message appears whole or not at all
  folder "$queue/tmp"
  written=$queue/tmp/$sender.$$.$stamp
  trap 'rm -f "$written"' EXIT # after the rename there is nothing to remove
  trap 'exit 130' INT
  trap 'exit 143' HUP TERM
  printf %s "$sealed" >"$written" || fail 6 "$queue/tmp: cannot be written"
  if ! mv "$written" "$box/new/$id.json" 2>/dev/null; then
    ! is_id "$1" || unknown "$1" # it has left meanwhile
    fail 6 "$box/new: cannot be written"
  fi
  ring
}

main() {
  dir=
  while :; do
    case ${1-} in
      --dir) [ "$#" -ge 2 ] || fail 2 "$USAGE"; dir=$2 && shift 2 ;;
      --dir=*) dir=${1#*=} && shift ;;
      -h | --help) printf '%s\n' "$USAGE" && exit ;;
      --) shift && break ;;
      -*) fail 2 "$USAGE" ;;
      *) break ;;
    esac
  done
  { [ "$#" -ge 2 ] && [ "$#" -le 3 ]; } || fail 2 "$USAGE"
  need openssl awk flock
  sender=${MNEMOSYNE_INSTANCE:-shell}
  is_name "$sender" || fail 2 'MNEMOSYNE_INSTANCE is not a name'
  is_type "$2" || fail 2 'TYPE is not 1 to 64 printable characters'
  [ "$#" -eq 3 ] || set -- "$@" '{}'
  payload=$(printf %s "$3" | compact) || fail 2 'JSON_PAYLOAD is not JSON that a message can carry'
  find_state "$dir"
  find_box "$1"
  read_secret
  derive
  compose "$1" "$2" "$payload"
  if is_id "$1"; then need_instance "$1"; else make_box; fi
  publish "$1"
  printf '%s\n' "$id"
}

main "$@"
