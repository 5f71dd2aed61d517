-- The record of one ledger: what every script about it begins with.
--
-- KEYS[1] is a list: the spends that some window still sees, oldest first, and the record as its last element.
--   A spend is (stamp, all that was spent before it): what a window sees is one subtraction.
-- KEYS[2] is a hash of open reservations, KEYS[3] a sorted set of the times at which their leases end.
-- KEYS[4] and KEYS[5] are sets of the attempts before the record's eight, full ones taking turns, gone after a minute
-- of calm.
-- Times are whole microseconds. An amount is five whole numbers below 10^14, the largest first: two of whole units and
-- three of 10^-14, 10^-28, 10^-42. No amount is ever a fraction of a Lua number. A running sum that passes the top begins
-- again at nothing, so that the difference of two is right however much was ever spent.
--
-- The first write of every script is one that a full server refuses, so that nothing is half done; what must be read
-- to find a key of another kind is read before.
local SERVER, NEVER, EXACT, CELLS, BASE = 9007199254740992, -9007199254740992, 1024, 1000, 100000000000000
local LEASE, SLACK, ATTEMPTS, SWEEP = 3600000000, 3600000, 96, 1000
local OTHERS, UNUSED, SET, CALM = 84, string.rep('\0', 12), 4096, 60000
-- Whether the attempt was looked for in vain.
local unseen = false
local RECORD, LENGTH = '<c2dddddddddddddddddddddddddc96', 298

local command, key, holds_key, leases_key = redis.call, KEYS[1], KEYS[2], KEYS[3]
local header, damage, format, attempts = command('LINDEX', key, -1), nil, nil, string.rep('\0', ATTEMPTS)
-- All that was ever spent, what of it was spent before the oldest spend in the list, what is held.
local s1, s2, s3, s4, s5, b1, b2, b3, b4, b5, h1, h2, h3, h4, h5 = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
-- When the first lease ends, whether check.lua's short way may be taken, the decimal places of the latest spend if it
-- has the most of all, the most of what is held, the number of spends in the list, the end of the last lease.
local retention, newest, renewed, oldest, due = 0, NEVER, 0, NEVER, SERVER
local plain, top, held_top, size, last_due = 0, 0, 0, 0, NEVER
if header then
    local kind, version = string.byte(header, 1, 2)
    if kind == 66 and version and version ~= 49 then
        damage = '#newer'
    elseif kind ~= 66 or #header < LENGTH then
        damage = '#'
    else
        format, s1, s2, s3, s4, s5, b1, b2, b3, b4, b5, h1, h2, h3, h4, h5, retention, newest, renewed, oldest, due,
            plain, top, held_top, size, last_due, attempts = struct.unpack(RECORD, header)
        local sum = s1 + s2 + s3 + s4 + s5 + b1 + b2 + b3 + b4 + b5 + h1 + h2 + h3 + h4 + h5
        local times = newest + oldest + due + last_due + renewed
        if not (sum >= 0 and sum < 15 * BASE and sum == math.floor(sum) and times == times and retention >= 0
                and size >= 0 and top >= 0 and held_top >= 0) then
            damage = '#'
        end
    end
end
if damage then
    return damage
end
