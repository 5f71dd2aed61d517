-- What a script knows of a ledger, as tables, and how it is written back.
local spent_ever, before_oldest, held = {s1, s2, s3, s4, s5}, {b1, b2, b3, b4, b5}, {h1, h2, h3, h4, h5}
-- What only some ledgers have, behind the fixed part of the record.
local lifetime, lifetime_places, early, early_at, holds, by_server, places, held_places =
    false, 0, NOTHING, 0, 0, false, {}, {}
if header then
    local sound, read = pcall(cmsgpack.unpack, string.sub(header, LENGTH + 1))
    if not sound or type(read) ~= 'table' or #read ~= 8 then
        return '#'
    end
    lifetime, lifetime_places, early, early_at = read[1], read[2], read[3], read[4]
    holds, by_server, places, held_places = read[5], read[6], read[7], read[8]
    if not (is_money(spent_ever) and is_money(before_oldest) and is_money(held) and is_money(early)
            and (not lifetime or is_money(lifetime)) and type(lifetime_places) == 'number'
            and type(early_at) == 'number' and type(holds) == 'number' and type(places) == 'table'
            and type(held_places) == 'table') then
        return '#'
    end
    if plain > 0 then
        -- The short way leaves the list of places as it was: the latest spend has the most.
        places = {{top, newest}}
    end
end

local function server_time()
    local time = command('TIME')
    return time[1] * 1000000 + time[2]
end

-- The stamp of a spend and what was spent before it; nothing behind the last spend.
local function spend_at(index)
    local spend = command('LINDEX', key, index)
    if spend and string.sub(spend, 1, 1) == 'e' then
        local stamp, a, b, c, d, e = cmsgpack.unpack(string.sub(spend, 2))
        return stamp, {a, b, c, d, e}
    end
end

local function spend_text(stamp, before)
    return 'e' .. cmsgpack.pack(stamp, before[1], before[2], before[3], before[4], before[5])
end

-- Reads the oldest spend in the list again.
local function look_at_oldest()
    local stamp, before = nil, nil
    if header then
        stamp, before = spend_at(0)
    end
    oldest, before_oldest = stamp, before or spent_ever
end

local changed, was_lifetime, lengthen = false, lifetime and true or false, false
-- New spends, later than all others, not yet in the list.
local fresh = {}

-- Puts the fresh spends and the header at the end of the list.
local function flush(last)
    if not header then
        fresh[#fresh + 1] = last
        command('RPUSH', key, unpack(fresh))
        -- Reservations without a record are leftovers of one that was evicted.
        command('DEL', holds_key, leases_key)
    elseif #fresh > 0 then
        command('LSET', key, -1, fresh[1])
        fresh[#fresh + 1] = last
        command('RPUSH', key, unpack(fresh, 2))
    else
        command('LSET', key, -1, last)
    end
    header, fresh = last, {}
end

-- Adds a spend to the cell of the last one in the list, where there are so many that they share cells: a cell leaves
-- with its latest spend. False where it needs a place of its own.
local function joins_last(stamp, entries)
    if entries < EXACT then
        return false
    end
    local cell = math.max(math.floor(retention / CELLS), 1)
    local last, earlier = spend_at(-2)
    if last and math.floor(last / cell) == math.floor(stamp / cell) then
        command('LSET', key, -2, spend_text(stamp, earlier))
        return true
    end
    return false
end

-- Puts a spend where it belongs: all later ones have more before them.
local function insert(stamp, amount)
    flush(header)
    local entries = command('LLEN', key) - 1
    local later, before = {}, spent_ever
    while true do
        local last, earlier = spend_at(-2)
        if not last or last <= stamp then
            break
        end
        later[#later + 1] = spend_text(last, plus(earlier, amount))
        before = earlier
        command('LTRIM', key, 0, -3)
        command('RPUSH', key, header)
    end
    if not joins_last(stamp, entries) then
        later[#later + 1] = spend_text(stamp, before)
    end
    for index = #later, 1, -1 do
        command('LSET', key, -1, later[index])
        command('RPUSH', key, header)
    end
    look_at_oldest()
end

-- Adds a spend to the end of the list.
local function append(stamp)
    if not (header and #fresh == 0 and joins_last(stamp, command('LLEN', key) - 1)) then
        fresh[#fresh + 1] = spend_text(stamp, spent_ever)
    end
end

local function most_places(list, since)
    local most = 0
    for _, seen in ipairs(list) do
        if seen[1] > most and (not since or seen[2] >= since) then
            most = seen[1]
        end
    end
    return most
end

-- Notes that something with so many decimal places was spent. One that is older and has fewer never shows.
local function note_places(digits, stamp)
    local seen, since = {}, stamp
    for _, each in ipairs(places) do
        if each[1] == digits then
            since = math.max(since, each[2])
        end
    end
    for _, each in ipairs(places) do
        if each[1] > digits or each[1] < digits and each[2] > since then
            seen[#seen + 1] = each
        end
    end
    seen[#seen + 1] = {digits, since}
    places = seen
end

-- Records a spend; false when a sum would not fit, which leaves everything as it was.
local function record(stamp, amount, digits)
    if not fits(plus(minus(spent_ever, before_oldest), amount)) then
        return false
    end
    if lifetime then
        local sum = plus(lifetime, amount)
        if not fits(sum) then
            return false
        end
        lifetime, lifetime_places = sum, math.max(lifetime_places, digits)
    end
    if retention > 0 and not is_nothing(amount) then
        if newest == NEVER or stamp >= newest then
            append(stamp)
        else
            insert(stamp, amount)
        end
        spent_ever = plus(spent_ever, amount)
    end
    note_places(digits, stamp)
    newest, changed = math.max(newest, stamp), true
    return true
end

-- Takes an amount out of what is held.
local function free(amount, digits)
    held = is_more(amount, held) and NOTHING or minus(held, amount)
    local left = {}
    for _, seen in ipairs(held_places) do
        if seen[1] == digits then
            seen[2] = seen[2] - 1
        end
        if seen[2] > 0 then
            left[#left + 1] = seen
        end
    end
    held_places = left
end

local function hold_text(amount, digits, lease, settled)
    return cmsgpack.pack(digits, lease, settled, amount[1], amount[2], amount[3], amount[4], amount[5])
end

local function read_hold(text)
    local digits, lease, settled, a, b, c, d, e = cmsgpack.unpack(text)
    return {a, b, c, d, e}, digits, lease, settled
end

-- Settles at the full amount what stayed open beyond its lease; forgets it one more lease later.
local function end_leases(now)
    local sweeps = 0
    while holds > 0 and now >= due and sweeps < SWEEP do
        sweeps = sweeps + 1
        local first = command('ZRANGE', leases_key, 0, 0, 'WITHSCORES')
        local ends = tonumber(first[2])
        if ends and ends > now then
            due, changed = ends, true
            return
        end
        local hold = ends and command('HGET', holds_key, first[1])
        if sweeps == 1 then
            command('LSET', key, -1, header)
        end
        if not ends then
            -- Their key is gone, as under an eviction policy: what they held may have been spent.
            record(now, held, most_places(held_places))
            held, held_places, holds = NOTHING, {}, 0
        elseif hold then
            local amount, digits, lease, settled = read_hold(hold)
            if settled then
                command('HDEL', holds_key, first[1])
                command('ZREM', leases_key, first[1])
                holds = holds - 1
            elseif record(ends, amount, digits) then
                free(amount, digits)
                command('HSET', holds_key, first[1], hold_text(amount, digits, lease, true))
                command('ZADD', leases_key, string.format('%.0f', ends + lease), first[1])
                last_due, lengthen = math.max(last_due, ends + lease), true
            else
                return
            end
        else
            command('ZREM', leases_key, first[1])
        end
        changed = true
    end
end

-- Makes room for a budget's window and forgets what no window sees any more.
local function prepare(now, window)
    look_at_oldest()
    if window >= 0 then
        if retention == 0 then
            early, early_at = lifetime or NOTHING, newest == NEVER and 0 or newest
        end
        if window > retention then
            retention, changed = window, true
        end
    elseif not lifetime then
        lifetime, lifetime_places, changed = minus(spent_ever, before_oldest), most_places(places), true
    end
    if header then
        end_leases(now)
    end
    if retention > 0 then
        local cutoff = now - retention
        if #fresh > 0 then
            flush(header)
            look_at_oldest()
        end
        if oldest and oldest < cutoff then
            command('LSET', key, -1, header)
            command('LTRIM', key, first_since(spend_at, cutoff), -1)
            changed = true
            look_at_oldest()
        end
        local seen = {}
        for _, each in ipairs(places) do
            if each[2] >= cutoff then
                seen[#seen + 1] = each
            end
        end
        if #seen ~= #places then
            places, changed = seen, true
        end
    end
end

-- What a window sees, with what is held, and the decimal places it is shown with; nil when the sum does not fit.
local function spent(now, window)
    local sum, digits
    if window < 0 then
        sum = lifetime or minus(spent_ever, before_oldest)
        digits = lifetime and lifetime_places or most_places(places)
    else
        local cutoff, before = now - window, before_oldest
        if oldest and oldest < cutoff then
            local _, earlier = spend_at(first_since(spend_at, cutoff))
            before = earlier or spent_ever
        end
        sum = minus(spent_ever, before)
        if early_at >= cutoff then
            sum = plus(sum, early)
        end
        digits = most_places(places, cutoff)
    end
    sum = plus(sum, held)
    if fits(sum) then
        return sum, math.max(digits, most_places(held_places))
    end
end

local function is_repeated(attempt)
    if unseen then
        return false
    end
    return string.find(attempts, attempt, 1, true) ~= nil or string.sub(attempts, OTHERS + 1) ~= UNUSED
        and command('SISMEMBER', KEYS[4], attempt) + command('SISMEMBER', KEYS[5], attempt) > 0
end

local function remember(attempt)
    local last = string.sub(attempts, OTHERS + 1)
    if last ~= UNUSED then
        command('SADD', KEYS[4], last)
        command('PEXPIRE', KEYS[4], CALM)
        if command('SCARD', KEYS[4]) >= SET then
            command('RENAME', KEYS[4], KEYS[5])
        end
    end
    attempts, changed = string.sub(attempt .. attempts, 1, ATTEMPTS), true
end

local function expire(name, milliseconds)
    if milliseconds then
        command('PEXPIRE', name, string.format('%.0f', math.ceil(milliseconds)))
    else
        command('PERSIST', name)
    end
end

-- The record as text.
local function packed()
    local entries = #fresh
    if header then
        entries = entries + command('LLEN', key) - 1
    end
    if entries == #fresh and entries > 0 then
        -- All that there is was spent just now.
        local stamp, a, b, c, d, e = cmsgpack.unpack(string.sub(fresh[1], 2))
        oldest, before_oldest = stamp, {a, b, c, d, e}
    elseif entries == 0 then
        oldest, before_oldest = nil, spent_ever
    end
    -- See short.lua: a single number of places, that of the latest spend, and nothing out of the ordinary.
    local latest = places[1]
    local is_plain = not lifetime and is_nothing(early) and #places == 1 and latest[2] == newest
    return struct.pack(
        RECORD, 'B1', spent_ever[1], spent_ever[2], spent_ever[3], spent_ever[4], spent_ever[5],
        before_oldest[1], before_oldest[2], before_oldest[3], before_oldest[4], before_oldest[5],
        held[1], held[2], held[3], held[4], held[5], retention, newest, renewed, oldest or NEVER,
        holds > 0 and due or SERVER, is_plain and (by_server and 2 or 1) or 0, is_plain and latest[1] or 0,
        most_places(held_places), entries, last_due, attempts
    ) .. cmsgpack.pack({lifetime, lifetime_places, early, early_at, holds, by_server, places, held_places})
end

-- Writes the record back. The keys live as long as any window sees anything in them: on the server's own clock their
-- time is prolonged once a window; another clock may stand still, and is given an hour more each time. A lifetime
-- stays.
local function finish(now, on_server)
    if not changed then
        return
    end
    local milliseconds, touch = nil, not was_lifetime
    if not lifetime then
        local ends = (newest == NEVER and now or newest) + retention
        if holds > 0 then
            ends = math.max(ends, last_due + math.max(retention, LEASE))
        end
        if not on_server then
            renewed, milliseconds = 0, math.max(ends - now, 0) / 1000 + SLACK
        elseif lengthen or ends > renewed then
            renewed = ends + retention
            milliseconds = (renewed - now) / 1000 + 1
        else
            touch = false
        end
    end
    by_server = on_server
    flush(packed())
    if touch then
        expire(key, milliseconds)
    end
    return (touch or lengthen) and function()
        if holds > 0 then
            expire(holds_key, milliseconds)
            expire(leases_key, milliseconds)
        end
    end
end
