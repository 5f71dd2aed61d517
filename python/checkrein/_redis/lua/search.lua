-- The index of the first entry stamped at or after `cutoff`, where the one at 0 is not; one behind the last if none is.
-- `entry_at` returns the stamp of the entry at an index, or nil behind the last. Windows mostly move by an entry or
-- two, so the search begins with small steps.
local function first_since(entry_at, cutoff)
    local low, high, step = 0, 1, 1
    while true do
        local stamp = entry_at(high)
        if not stamp or stamp >= cutoff then
            break
        end
        low, step = high, step * 2
        high = high + step
    end
    while high - low > 1 do
        local middle = math.floor((low + high) / 2)
        local stamp = entry_at(middle)
        if stamp and stamp < cutoff then
            low = middle
        else
            high = middle
        end
    end
    return high
end

