-- Counts look-ups, and adds what one push did to the accounts of a day. This is one script because each script of a
-- record costs 2 % of its time. A push that was added already, known by its id, is not added again: its write was
-- sent twice, or a proxy has counted it.
-- KEYS: the day's look-ups; and for a push: the day's rows, the day's layers, the ids of the last pushes, and of those
--       before
-- ARGV: seconds that look-ups live, number of layers looked up, number of known ones; and for a push: its id, seconds
--       to live, the most rows with names, the most rows for others, the most layers, the row's field, its numbers,
--       then for each layer its member and bytes
--
-- A row is `<registry>/<prefix>`, with what is left of a registry in `<registry>/*`, and what is left of all in `*/*`.
-- Its value is numbers: a handicap, then those of the push. When the rows are full, the one with the fewest bytes
-- makes way: its numbers are added to `*`, so that no sum changes, and the new row gets its bytes as a handicap
-- ("space saving": Metwally, Agrawal, El Abbadi 2005). So a prefix that comes late is not thrown out again by each
-- small one, and whatever has more than its share of the bytes has a row.
if ARGV[2] ~= '0' then
  redis.pcall('HINCRBY', KEYS[1], 'asked', ARGV[2])
  redis.pcall('HINCRBY', KEYS[1], 'known', ARGV[3])
  redis.pcall('EXPIRE', KEYS[1], ARGV[1])
end
if #ARGV == 3 then
  return 1
end

local rows, layers, recent, elder = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, ttl, named_max, others_max, layers_max =
  ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local field, numbers = ARGV[9], ARGV[10]
local COUNT, LIMIT, RECENT = 15, 999999999999999, 256

-- Two generations of ids: when the younger one is full it becomes the elder one.
if redis.call('SISMEMBER', elder, id) == 1 or redis.call('SADD', recent, id) == 0 then
  return 0
end
local count = redis.call('SCARD', recent)
if count == 1 then
  redis.call('EXPIRE', recent, 86400)
elseif count >= RECENT then
  redis.call('RENAME', recent, elder)
end

-- One call for all numbers of a row: a loop over its words takes five times as long.
local PATTERN = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local FORMAT = '%d %d %d %d %d %d %d %d %d %d %d %d %d %d %d'

-- Returns the numbers of a row; nil if it is not ours. Numbers of 15 digits are exact.
local function parsed(text)
  local out = {string.match(text, PATTERN)}
  for i = 1, #out do
    out[i] = tonumber(out[i])
    if out[i] > LIMIT then
      return nil
    end
  end
  return out[1] and out
end

local function add(name, old, more)
  local sum = old and parsed(old)
  if sum then
    for i = 1, COUNT do
      local total = sum[i] + more[i]
      sum[i] = total < LIMIT and total or LIMIT
    end
  end
  redis.call('HSET', rows, name, string.format(FORMAT, unpack(sum or more)))
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
      if bytes > 5 * LIMIT then  -- not ours
        bytes = -1
      end
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
local count = redis.call('HLEN', rows)
if count > named_max + others_max + 1 then  -- a stranger's rows: to read them all would take long
  redis.call('DEL', rows)
  old = nil
elseif not old and count >= named_max then
  handicap = make_room()
end
add(field, old, parsed(string.format('%d ', handicap) .. numbers))
if not old then
  redis.call('EXPIRE', rows, ttl)
end

-- The layers are a sorted set by bytes that is cut when it has twice what is kept: a layer that comes often has
-- the time to rise. What was cut and comes again begins at 0, so that no number is ever too high. A sketch would
-- keep more layers and say more of them than happened.
if #ARGV > 10 then
  for i = 11, #ARGV, 2 do
    redis.call('ZINCRBY', layers, ARGV[i + 1], ARGV[i])
  end
  local count = redis.call('ZCARD', layers)
  if count > 2 * layers_max then
    redis.call('ZREMRANGEBYRANK', layers, 0, -layers_max - 1)
  elseif count <= #ARGV then  -- it may be new
    redis.call('EXPIRE', layers, ttl)
  end
end
return 1
