-- Adds what one push did to the accounts of a day. A push that was added already, known by its id, is not added
-- again: its write was sent twice, or a proxy has counted it.
-- KEYS: the day's rows, the day's layers, the ids of the last pushes
-- ARGV: the push's id, seconds to live, the most rows with names, the most rows for others, the most layers,
--       the row's field, its numbers, then for each layer its member and bytes
--
-- A row is `<registry>/<prefix>`, with what is left of a registry in `<registry>/*`, and what is left of all in `*/*`.
-- Its value is numbers: a handicap, then those of the push. When the rows are full, the one with the fewest bytes
-- makes way: its numbers are added to `*`, so that no sum changes, and the new row gets its bytes as a handicap
-- ("space saving": Metwally, Agrawal, El Abbadi 2005). So a prefix that comes late is not thrown out again by each
-- small one, and whatever has more than its share of the bytes has a row.
local rows, layers, recent = KEYS[1], KEYS[2], KEYS[3]
local id, ttl, named_max, others_max, layers_max =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local field, numbers = ARGV[6], ARGV[7]
local COUNT, LIMIT, RECENT_BYTES = 15, 999999999999999, 2304

local seen = redis.call('GET', recent) or ''
if string.find(seen, id, 1, true) then
  return 0
end
redis.call('SET', recent, string.sub(seen .. ' ' .. id, -RECENT_BYTES), 'EX', 3600)

-- Returns the numbers of a row; nil if it is not ours. Numbers of 15 digits are exact.
local function parsed(text)
  local out = {}
  for word in string.gmatch(text, '%S+') do
    if #word > 15 or #out == COUNT or not string.find(word, '^%d+$') then
      return nil
    end
    out[#out + 1] = tonumber(word)
  end
  return #out == COUNT and out or nil
end

local function add(name, old, more)
  local sum = old and parsed(old) or {}
  for i = 1, COUNT do
    sum[i] = string.format('%.0f', math.min((sum[i] or 0) + more[i], LIMIT))
  end
  redis.call('HSET', rows, name, table.concat(sum, ' '))
end

local BYTES = '^(%d+) %d+ (%d+) %d+ (%d+) %d+ (%d+) %d+ (%d+) '

-- Makes room for a row, if there is none; returns the handicap of the new one.
local function make_room()
  local all, named, others, least, smallest = redis.call('HGETALL', rows), 0, 0, math.huge, nil
  for i = 1, #all, 2 do
    if string.sub(all[i], -2) == '/*' then
      others = others + 1
    else
      named = named + 1
      local handicap, mounted, waited, existing, uploaded = string.match(all[i + 1], BYTES)
      local bytes = handicap and handicap + mounted + waited + existing + uploaded or -1
      if bytes < least or bytes == least and all[i] > all[smallest] then
        least, smallest = bytes, i
      end
    end
  end
  if named < named_max then
    return 0
  end
  redis.call('HDEL', rows, all[smallest])
  local given_up = parsed(all[smallest + 1])
  if not given_up then
    return 0
  end
  given_up[1] = 0
  local other = string.match(all[smallest], '^[^/]*') .. '/*'
  local old = redis.call('HGET', rows, other)
  if not old and others >= others_max then
    other = '*/*'
    old = redis.call('HGET', rows, other)
  end
  add(other, old, given_up)
  return math.min(least, LIMIT)
end

local old = redis.call('HGET', rows, field)
local handicap = 0
if not old and redis.call('HLEN', rows) >= named_max then
  handicap = make_room()
end
add(field, old, parsed(string.format('%.0f', handicap) .. ' ' .. numbers))
redis.call('EXPIRE', rows, ttl)

-- The layers are a sorted set by bytes that is cut when it has twice what is kept: a layer that comes often has
-- the time to rise. What was cut and comes again begins at 0, so that no number is ever too high. A sketch would
-- keep more layers and say more of them than happened.
if #ARGV > 7 then
  for i = 8, #ARGV, 2 do
    redis.call('ZINCRBY', layers, ARGV[i + 1], ARGV[i])
  end
  if redis.call('ZCARD', layers) > 2 * layers_max then
    redis.call('ZREMRANGEBYRANK', layers, 0, -layers_max - 1)
  end
  redis.call('EXPIRE', layers, ttl)
end
return 1
