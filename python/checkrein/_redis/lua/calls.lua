-- Decides on one call of a gate and counts it when it is allowed.
--
-- KEYS[1] is a list: the calls that some window still sees, oldest first, and the header as its last element.
--   A call is (stamp, calls before it): what a window sees is one subtraction, and popping old calls changes no sum.
--   A header is (format, calls, retention, lifetime, early, early_at, newest, renewed, oldest, before) and the names of
--   the latest eight attempts; the last two numbers are the first call of the list.
-- KEYS[2] and KEYS[3] are sets of the attempts before those, full ones taking turns, gone after a minute of calm.
-- ARGV[1] is (now, window, cooldown, most calls, attempt). Times are whole microseconds; now is 2^53 where the
-- server's own clock counts, a window of -1 sees everything. An attempt that was counted is not counted again: a
-- client whose connection broke repeats what may have run.
--
-- The first write is always one that a full server refuses, so that nothing is half done. The common way through has
-- no functions of its own: making one costs as much as a command.
local SERVER, NEVER, EXACT, CELLS = 9007199254740992, -9007199254740992, 1024, 1000
local HEADER, ATTEMPT, OTHERS, SLACK = 74, 12, 84, 3600000
local SET, CALM = 4096, 60000

local key, command = KEYS[1], redis.call
local now, window, cooldown, most, attempt = struct.unpack('<ddddc12', ARGV[1])
local on_server = now == SERVER
if on_server then
    local time = command('TIME')
    now = time[1] * 1000000 + time[2]
end

local format, attempts = nil, ''
local total, retention, lifetime, early, early_at, newest, renewed, oldest, before = 0, 0, -1, 0, 0, NEVER, 0, NEVER, 0
local header = command('LINDEX', key, -1)
if header then
    if #header < HEADER or (#header - HEADER) % ATTEMPT ~= 0 or string.sub(header, 1, 1) ~= 'A' then
        return '#'
    end
    format, total, retention, lifetime, early, early_at, newest, renewed, oldest, before =
        struct.unpack('<c2ddddddddd', header)
    if format ~= 'A1' then
        return '#newer'
    elseif not (total >= before and before >= 0 and total < SERVER and retention >= 0 and lifetime >= -1 and early >= 0
            and early_at == early_at and newest >= NEVER and newest <= SERVER and renewed == renewed
            and oldest == oldest) then
        return '#'
    end
    attempts = string.sub(header, HEADER + 1)
end

local changed, kept, drop = false, lifetime >= 0, 0
if window >= 0 then
    if retention == 0 then
        -- Only lifetimes were asked for so far: their calls have no stamps but the last.
        early, early_at = lifetime > 0 and lifetime or 0, newest == NEVER and 0 or newest
    end
    if window > retention then
        retention, changed = window, true
    end
elseif lifetime < 0 then
    lifetime, changed = total - before, true
end

-- What has left every window, and what this one still sees.
local earlier = before
if retention > 0 then
    local cutoff = now - retention
    if lifetime < 0 and newest < cutoff then
        newest = NEVER
    end
    if total > before and oldest < (window >= 0 and now - window or cutoff) then
        local call = oldest < cutoff and command('LINDEX', key, 1)
        local stamp, calls = nil, total
        if call and #call == 16 then
            stamp, calls = struct.unpack('<dd', call)
        end
        if stamp and stamp >= cutoff and window == retention then
            drop, oldest, before, earlier, changed = 1, stamp, calls, calls, true
        else
            local function call_at(index)
                local found = command('LINDEX', key, index)
                if found and #found == 16 then
                    return struct.unpack('<dd', found)
                end
            end
            if oldest < cutoff then
                drop, changed = first_since(call_at, cutoff), true
                stamp, calls = call_at(drop)
                oldest, before = stamp or NEVER, calls or total
            end
            earlier = before
            if window >= 0 and total > before and oldest < now - window then
                stamp, calls = call_at(first_since(call_at, now - window))
                earlier = calls or total
            end
        end
    end
end
local count
if window < 0 then
    count = lifetime
elseif early > 0 and early_at >= now - window then
    count = total - earlier + early
else
    count = total - earlier
end
local age = newest ~= NEVER and now - newest or nil
if age and window >= 0 and age > window then
    age = nil
end

local repeated = #attempts > 0 and string.find(attempts, attempt, 1, true)
if #attempts > OTHERS and not repeated then
    repeated = command('SISMEMBER', KEYS[2], attempt) + command('SISMEMBER', KEYS[3], attempt) > 0
end
local allowed = repeated or count < most and not (cooldown > 0 and age and age < cooldown)
local in_order = now >= newest
local position = total
if allowed and not repeated then
    count = count + 1
    if retention > 0 then
        if total == before then
            oldest = now
        elseif now < oldest then
            oldest = now
        end
        total = total + 1
    end
    if lifetime >= 0 then
        lifetime = lifetime + 1
    end
    if in_order then
        newest = now
    end
    if #attempts > OTHERS then
        -- First, because a full server refuses it; one that is in both places does no harm.
        command('SADD', KEYS[2], string.sub(attempts, OTHERS + 1))
        command('PEXPIRE', KEYS[2], CALM)
        if command('SCARD', KEYS[2]) >= SET then
            command('RENAME', KEYS[2], KEYS[3])
        end
        attempts = string.sub(attempts, 1, OTHERS)
    end
    attempts, changed = attempt .. attempts, true
end

if changed and (header or allowed) then
    -- The key lives as long as any window sees a call in it. On the server's own clock its time is prolonged once a
    -- window; another clock may stand still, and is given an hour more each time. A lifetime stays.
    local milliseconds = nil
    if lifetime >= 0 then
        milliseconds = header and not kept and -1
    elseif not on_server then
        renewed, milliseconds = 0, retention / 1000 + SLACK
    elseif newest + retention > renewed then
        renewed, milliseconds = now + 2 * retention, retention / 500 + 1
    end
    local old = header
    header = struct.pack(
        '<c2ddddddddd', 'A1', total, retention, lifetime, early, early_at, newest, renewed, oldest, before
    ) .. attempts
    if not allowed or repeated or retention == 0 then
        if old then
            command('LSET', key, -1, header)
        else
            command('RPUSH', key, header)
        end
    elseif not old then
        command('RPUSH', key, struct.pack('<dd', now, position), header)
    elseif in_order then
        local merged
        if position - before >= EXACT and command('LLEN', key) - drop > EXACT then
            -- So many that they share cells: a cell leaves with its latest call.
            local cell = math.max(math.floor(retention / CELLS), 1)
            local last = command('LINDEX', key, -2)
            if last and #last == 16 then
                local stamp, calls = struct.unpack('<dd', last)
                if math.floor(stamp / cell) == math.floor(now / cell) then
                    merged = struct.pack('<dd', now, calls)
                end
            end
        end
        if merged then
            command('LSET', key, -2, merged)
            command('LSET', key, -1, header)
        else
            command('LSET', key, -1, struct.pack('<dd', now, position))
            command('RPUSH', key, header)
        end
    else
        -- The clock went back: the call goes where it belongs, and every later one has one more before it.
        command('LSET', key, -1, old)
        local entries, later, merged = command('LLEN', key) - 1 - drop, {}, false
        while true do
            local last = command('LINDEX', key, -2)
            if not last or #last ~= 16 then
                break
            end
            local stamp, calls = struct.unpack('<dd', last)
            if stamp <= now then
                local cell = math.max(math.floor(retention / CELLS), 1)
                -- Not the first call of the list: the header has its stamp.
                if entries >= EXACT and calls > before and math.floor(stamp / cell) == math.floor(now / cell) then
                    command('LSET', key, -2, struct.pack('<dd', now, calls))
                    merged = true
                end
                break
            end
            later[#later + 1] = struct.pack('<dd', stamp, calls + 1)
            position = calls
            command('LTRIM', key, 0, -3)
            command('RPUSH', key, old)
        end
        if not merged then
            later[#later + 1] = struct.pack('<dd', now, position)
        end
        for index = #later, 1, -1 do
            command('LSET', key, -1, later[index])
            command('RPUSH', key, header)
        end
        if #later == 0 then
            command('LSET', key, -1, header)
        end
    end
    if drop == 1 then
        command('LPOP', key)
    elseif drop > 1 then
        command('LTRIM', key, drop, -1)
    end
    if milliseconds == -1 then
        command('PERSIST', key)
    elseif milliseconds then
        command('PEXPIRE', key, string.format('%.0f', math.ceil(milliseconds)))
    end
end
if age then
    return string.format(allowed and '1 %d %d' or '0 %d %d', count, age)
end
return string.format(allowed and '1 %d -' or '0 %d -', count)
