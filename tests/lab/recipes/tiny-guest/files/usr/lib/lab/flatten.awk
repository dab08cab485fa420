# YAML (block style, flow style, JSON) to lines of PATH=VALUE: what cloud-init's files use, not all of YAML.
# Sequences are numbered from 0. Anchors, tags and multi-line flow collections inside block style are not known;
# literal blocks are skipped.
function blank() { while (P <= length(T) && index(" \t\r\n,", substr(T, P, 1))) P++ }
function quoted(mark,    c, s) {
    s = ""
    for (P++; P <= length(T) && (c = substr(T, P, 1)) != mark; P++) {
        if (mark == "\"" && c == "\\") {
            c = substr(T, ++P, 1)
            if (c == "n" || c == "t" || c == "r") c = " "
        }
        s = s c
    }
    P++
    return s
}
function word(    c, s) {
    c = substr(T, P, 1)
    if (c == "\"" || c == "'") return quoted(c)
    s = ""
    for (; P <= length(T); P++) {
        c = substr(T, P, 1)
        if (index(",]}\n", c) || (c == ":" && index(" \t\n", substr(T, P + 1, 1)))) break
        s = s c
    }
    sub(/[ \t]+$/, "", s)
    return s
}
function below(path, key) { return path == "" ? key : path "." key }
function flow(path,    c, key, n) {
    blank()
    c = substr(T, P, 1)
    if (c == "{") {
        for (P++; ; flow(below(path, key))) {
            blank()
            if (P > length(T)) return
            if (substr(T, P, 1) == "}") { P++; return }
            key = word()
            blank()
            if (substr(T, P, 1) == ":") P++
        }
    }
    if (c == "[") {
        for (P++; ; flow(below(path, n++ + 0))) {
            blank()
            if (P > length(T)) return
            if (substr(T, P, 1) == "]") { P++; return }
        }
    }
    print path "=" word()
}
function text(value) {
    T = value
    P = 1
    if (value ~ /^[\[{]/) return 1
    if (value ~ /^["']/) { T = word(); return 0 }
    sub(/[ \t]+#.*$/, "", T)
    return 0
}
function emit(path, value) { if (text(value)) flow(path); else print path "=" T }
function pop(at, sequence) {
    while (depth > 0 && (column[depth] > at || (column[depth] == at && !(sequence && kind[depth] == "key")))) depth--
}
function entry(at, line,    key, rest, parent) {
    if (line ~ /^- / || line == "-") {
        pop(at, 1)
        parent = where[depth]
        key = below(parent, count[parent]++ + 0)
        depth++; column[depth] = at; kind[depth] = "item"; where[depth] = key
        rest = line
        sub(/^-[ \t]*/, "", rest)
        if (rest == "") return
        if (rest ~ /^-( |$)/ || is_pair(rest)) entry(at + length(line) - length(rest), rest)
        else emit(key, rest)
        return
    }
    if (!is_pair(line)) return
    pop(at, 0)
    key = below(where[depth], KEY)
    if (VALUE == "" || VALUE ~ /^#/) {
        depth++; column[depth] = at; kind[depth] = "key"; where[depth] = key
    } else if (VALUE ~ /^[|>][-+0-9]*$/) {
        literal = at
    } else {
        emit(key, VALUE)
    }
}
function is_pair(line,    at) {
    if (line ~ /^["']/) {
        T = line; P = 1
        KEY = word()
        VALUE = substr(T, P)
        if (VALUE !~ /^[ \t]*:([ \t]|$)/) return 0
        sub(/^[ \t]*:[ \t]*/, "", VALUE)
        return 1
    }
    if (line ~ /^[\[{]/) return 0
    at = match(line, /:([ \t]|$)/)
    if (!at) return 0
    KEY = substr(line, 1, at - 1)
    VALUE = substr(line, at + 1)
    sub(/^[ \t]+/, "", VALUE)
    return 1
}
BEGIN { depth = 0; where[0] = ""; literal = -1 }
{ sub(/\r$/, ""); all = all $0 "\n" }
!whole && /^[ \t]*(#.*)?$/ { next }
!begun { begun = 1; if ($0 ~ /^[ \t]*[\[{]/) whole = 1 }
whole || /^---/ || /^\.\.\./ { next }
{
    match($0, /^ */)
    at = RLENGTH
    if (literal >= 0 && at > literal) next
    literal = -1
    line = substr($0, at + 1)
    sub(/[ \t]+$/, "", line)
    entry(at, line)
}
END { if (whole) { T = all; sub(/^([ \t]*(#[^\n]*)?\n)*/, "", T); P = 1; flow("") } }
