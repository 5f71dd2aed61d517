-- What is known of one ledger, read from its keys and written back to them.
--
-- KEYS[1] is a list: the spends that some window still sees, oldest first, and the record as its last element.
--   A spend is (stamp, all that was spent before it): what a window sees is one subtraction.
-- KEYS[2] is a hash of open reservations, KEYS[3] a sorted set of the times at which their leases end.
-- Times are whole microseconds. The first write of every script is one that a full server refuses, so that nothing is
-- half done; what must be read to find a key of another kind is read before.
local SERVER, NEVER, EXACT, CELLS = 9007199254740992, -9007199254740992, 1024, 1000
local LEASE, SLACK, ATTEMPT, ATTEMPTS, SWEEP = 3600000000, 3600000, 12, 96, 1000
local key, holds_key, leases_key = KEYS[1], KEYS[2], KEYS[3]

local function server_time()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- The record: every name is one of its fields, in this order in the list.
local spent_ever, retention, lifetime, lifetime_places = NOTHING, 0, false, 0
local early, early_at, newest, renewed = NOTHING, 0, NEVER, 0
local held, holds, due, last_due, by_server = NOTHING, 0, 0, 0, false
local places, held_places, attempts = {}, {}, ''

local header = redis.call('LINDEX', key, -1)
local damage = nil
if header then
    local sound, read = pcall(cmsgpack.unpack, string.sub(header, 3))
    if string.sub(header, 1, 1) ~= 'B' or not sound then
        damage = '#'
    elseif string.sub(header, 2, 2) ~= '1' then
        damage = '#newer'
    elseif type(read) ~= 'table' or #read ~= 16 then
        damage = '#'
    else
        spent_ever, retention, lifetime, lifetime_places = read[1], read[2], read[3], read[4]
        early, early_at, newest, renewed = read[5], read[6], read[7], read[8]
        held, holds, due, last_due, by_server = read[9], read[10], read[11], read[12], read[13]
        places, held_places, attempts = read[14], read[15], read[16]
        local numbers = is_money(spent_ever) and (not lifetime or is_money(lifetime)) and is_money(early)
            and is_money(held) and type(places) == 'table' and type(held_places) == 'table'
            and type(attempts) == 'string'
        for _, field in ipairs({2, 4, 6, 7, 8, 10, 11, 12}) do
            numbers = numbers and type(read[field]) == 'number' and read[field] == read[field]
        end
        if not numbers or retention < 0 or holds < 0 then
            damage = '#'
        end
    end
end

-- The stamp of a spend and what was spent before it; nothing behind the last spend.
local function spend_at(index)
    local spend = redis.call('LINDEX', key, index)
    if spend and string.sub(spend, 1, 1) == 'e' then
        local stamp, a, b, c, d, e = cmsgpack.unpack(string.sub(spend, 2))
        return stamp, {a, b, c, d, e}
    end
end

local function spend_text(stamp, before)
    return 'e' .. cmsgpack.pack(stamp, before[1], before[2], before[3], before[4], before[5])
end

-- The stamp of the oldest spend in the list, and what was spent before it.
local oldest, before_oldest = nil, spent_ever
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

local function packed()
    return 'B1' .. cmsgpack.pack({
        spent_ever, retention, lifetime, lifetime_places, early, early_at, newest, renewed, held, holds, due, last_due,
        by_server, places, held_places, attempts,
    })
end

-- Puts the fresh spends and the header at the end of the list.
local function flush(last)
    if not header then
        fresh[#fresh + 1] = last
        redis.call('RPUSH', key, unpack(fresh))
        -- Reservations without a record are leftovers of one that was evicted.
        redis.call('DEL', holds_key, leases_key)
    elseif #fresh > 0 then
        redis.call('LSET', key, -1, fresh[1])
        fresh[#fresh + 1] = last
        redis.call('RPUSH', key, unpack(fresh, 2))
    else
        redis.call('LSET', key, -1, last)
    end
    header, fresh = last, {}
end

-- Puts a spend where it belongs: all later ones have more before them.
local function insert(stamp, amount)
    flush(header or packed())
    local later, before = {}, spent_ever
    while true do
        local last, earlier = spend_at(-2)
        if not last or last <= stamp then
            break
        end
        later[#later + 1] = spend_text(last, plus(earlier, amount))
        before = earlier
        redis.call('LTRIM', key, 0, -3)
        redis.call('RPUSH', key, header)
    end
    fresh = {spend_text(stamp, before)}
    for index = #later, 1, -1 do
        fresh[#fresh + 1] = later[index]
    end
    flush(header)
    look_at_oldest()
end

-- Adds a spend to the list, or to the cell of the last one where there are many.
local function append(stamp)
    if header and #fresh == 0 and redis.call('LLEN', key) > EXACT then
        local cell = math.max(math.floor(retention / CELLS), 1)
        local last, earlier = spend_at(-2)
        if last and math.floor(last / cell) == math.floor(stamp / cell) then
            redis.call('LSET', key, -2, spend_text(stamp, earlier))
            return
        end
    end
    fresh[#fresh + 1] = spend_text(stamp, spent_ever)
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
    local known = false
    for _, seen in ipairs(places) do
        if seen[1] == digits then
            known, seen[2] = true, math.max(seen[2], stamp)
        end
    end
    if not known then
        places[#places + 1] = {digits, stamp}
    end
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
        local first = redis.call('ZRANGE', leases_key, 0, 0, 'WITHSCORES')
        local ends = tonumber(first[2])
        if ends and ends > now then
            due, changed = ends, true
            return
        end
        local hold = ends and redis.call('HGET', holds_key, first[1])
        if sweeps == 1 then
            redis.call('LSET', key, -1, header)
        end
        if not ends then
            -- Their key is gone, as under an eviction policy: what they held may have been spent.
            record(now, held, most_places(held_places))
            held, held_places, holds = NOTHING, {}, 0
        elseif hold then
            local amount, digits, lease, settled = read_hold(hold)
            if settled then
                redis.call('HDEL', holds_key, first[1])
                redis.call('ZREM', leases_key, first[1])
                holds = holds - 1
            elseif record(ends, amount, digits) then
                free(amount, digits)
                redis.call('HSET', holds_key, first[1], hold_text(amount, digits, lease, true))
                redis.call('ZADD', leases_key, string.format('%.0f', ends + lease), first[1])
                last_due, lengthen = math.max(last_due, ends + lease), true
            else
                return
            end
        else
            redis.call('ZREM', leases_key, first[1])
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
            redis.call('LTRIM', key, first_since(spend_at, cutoff), -1)
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
    return string.find(attempts, attempt, 1, true) ~= nil
end

local function remember(attempt)
    attempts, changed = string.sub(attempt .. attempts, 1, ATTEMPTS), true
end

local function expire(name, milliseconds)
    if milliseconds then
        redis.call('PEXPIRE', name, string.format('%.0f', math.ceil(milliseconds)))
    else
        redis.call('PERSIST', name)
    end
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
