-- The short way through a check, without tables or functions of its own, each of which costs as much as a command: a
-- spend in order, under the widest window, of no fewer decimal places than the others, while no lease ends.
local now, window, digits, a1, a2, a3, a4, a5, l1, l2, l3, l4, l5, attempt =
    struct.unpack('<dddddddddddddc12', ARGV[1])
local on_server = now == SERVER
if on_server then
    local time = command('TIME')
    now = time[1] * 1000000 + time[2]
end
if plain == (on_server and 2 or 1) and window == retention and now >= newest and now < due and digits >= top
        and size > 0 and not string.find(attempts, attempt, 1, true) then
    unseen = string.sub(attempts, OTHERS + 1) == UNUSED
        or command('SISMEMBER', KEYS[4], attempt) + command('SISMEMBER', KEYS[5], attempt) == 0
end
if unseen then
    local cutoff, drop, stamp = now - retention, 0, oldest
    local c1, c2, c3, c4, c5 = b1, b2, b3, b4, b5
    if oldest < cutoff then
        local spend = size > 1 and command('LINDEX', key, 1)
        if spend and string.byte(spend) == 101 then
            drop = 1
            stamp, c1, c2, c3, c4, c5 = cmsgpack.unpack(string.sub(spend, 2))
        end
    end
    if stamp >= cutoff then
        -- What is spent in the window and held, each number between -10^14 and 2 * 10^14, then within its bounds.
        local t5, t4, t3, t2, t1 = s5 - c5 + h5, s4 - c4 + h4, s3 - c3 + h3, s2 - c2 + h2, s1 - c1 + h1
        if t5 < 0 then t5, t4 = t5 + BASE, t4 - 1 elseif t5 >= BASE then t5, t4 = t5 - BASE, t4 + 1 end
        if t4 < 0 then t4, t3 = t4 + BASE, t3 - 1 elseif t4 >= BASE then t4, t3 = t4 - BASE, t3 + 1 end
        if t3 < 0 then t3, t2 = t3 + BASE, t2 - 1 elseif t3 >= BASE then t3, t2 = t3 - BASE, t2 + 1 end
        if t2 < 0 then t2, t1 = t2 + BASE, t1 - 1 elseif t2 >= BASE then t2, t1 = t2 - BASE, t1 + 1 end
        if t1 < 0 then t1 = t1 + BASE elseif t1 >= BASE then t1 = t1 - BASE end
        -- The same with the amount.
        local u5, u4, u3, u2, u1 = t5 + a5, t4 + a4, t3 + a3, t2 + a2, t1 + a1
        if u5 >= BASE then u5, u4 = u5 - BASE, u4 + 1 end
        if u4 >= BASE then u4, u3 = u4 - BASE, u3 + 1 end
        if u3 >= BASE then u3, u2 = u3 - BASE, u2 + 1 end
        if u2 >= BASE then u2, u1 = u2 - BASE, u1 + 1 end
        local over = l1 >= 0 and (u1 > l1 or u1 == l1 and (u2 > l2 or u2 == l2 and (u3 > l3 or u3 == l3
            and (u4 > l4 or u4 == l4 and u5 > l5))))
        local is_money = a1 + a2 + a3 + a4 + a5 > 0
        if over and drop == 0 then
            local places = held_top > top and held_top or top
            if t1 == 0 and t4 == 0 and t5 == 0 then
                return string.format('0 %d %d %d', places, t2, t3)
            end
            return string.format('0 %d %d %d %d %d %d', places, t1, t2, t3, t4, t5)
        elseif not over and is_money and u1 < 1701411834604 then
            local spend, merged = 'e' .. cmsgpack.pack(now, s1, s2, s3, s4, s5), nil
            if size - drop >= EXACT then
                -- So many that they share cells: a cell leaves with its latest spend.
                local cell = math.max(math.floor(retention / CELLS), 1)
                local last, e1, e2, e3, e4, e5 = cmsgpack.unpack(string.sub(command('LINDEX', key, -2), 2))
                if math.floor(last / cell) == math.floor(now / cell) then
                    merged = 'e' .. cmsgpack.pack(now, e1, e2, e3, e4, e5)
                end
            end
            local last_attempt = string.sub(attempts, OTHERS + 1)
            if last_attempt ~= UNUSED then
                -- First, because a full server refuses it; one that is in both places does no harm.
                command('SADD', KEYS[4], last_attempt)
                command('PEXPIRE', KEYS[4], CALM)
                if command('SCARD', KEYS[4]) >= SET then
                    command('RENAME', KEYS[4], KEYS[5])
                end
            end
            s5, s4, s3, s2, s1 = s5 + a5, s4 + a4, s3 + a3, s2 + a2, s1 + a1
            if s5 >= BASE then s5, s4 = s5 - BASE, s4 + 1 end
            if s4 >= BASE then s4, s3 = s4 - BASE, s3 + 1 end
            if s3 >= BASE then s3, s2 = s3 - BASE, s2 + 1 end
            if s2 >= BASE then s2, s1 = s2 - BASE, s1 + 1 end
            if s1 >= BASE then s1 = s1 - BASE end
            local ends = now + retention
            if due < SERVER then
                ends = math.max(ends, last_due + math.max(retention, LEASE))
            end
            local milliseconds = nil
            if not on_server then
                renewed, milliseconds = 0, (ends - now) / 1000 + SLACK
            elseif ends > renewed then
                renewed = ends + retention
                milliseconds = (renewed - now) / 1000 + 1
            end
            local latest = struct.pack(
                RECORD, 'B1', s1, s2, s3, s4, s5, c1, c2, c3, c4, c5, h1, h2, h3, h4, h5, retention, now, renewed, stamp,
                due, plain, digits, held_top, (merged and size or size + 1) - drop, last_due,
                attempt .. string.sub(attempts, 1, OTHERS)
            ) .. string.sub(header, LENGTH + 1)
            if merged then
                command('LSET', key, -2, merged)
                command('LSET', key, -1, latest)
            else
                command('LSET', key, -1, spend)
                command('RPUSH', key, latest)
            end
            if drop == 1 then
                command('LPOP', key)
            end
            if milliseconds then
                local text = string.format('%.0f', math.ceil(milliseconds))
                command('PEXPIRE', key, text)
                if due < SERVER then
                    command('PEXPIRE', holds_key, text)
                    command('PEXPIRE', leases_key, text)
                end
            end
            local places = held_top > digits and held_top or digits
            if u1 == 0 and u4 == 0 and u5 == 0 then
                return string.format('1 %d %d %d', places, u2, u3)
            end
            return string.format('1 %d %d %d %d %d %d', places, u1, u2, u3, u4, u5)
        end
    end
end
