-- A waiter's claim for a layer: can it mount, may it upload, or must it wait?
-- One script reads the sources and takes the lease, so that nobody takes a lease between the holder's last two
-- steps (publish, release) and uploads once more.
-- In each branch the write that needs memory comes first. After any other write a full server lets a script
-- continue, and leases would work although no source can be recorded: all would upload, one after the other.
-- KEYS: the layer's set of sources on one registry, its lease there, its waiters there
-- ARGV: '1' to take the lease if it is free, our lease's value, its life (ms), life of a waiter's entry (ms),
--       the most members of the set to read, the first line of a lease that we take over (a line end if it is
--       empty, '' for none), then repositories that we exclude
-- A lease whose holder shows no progress is taken over, by one waiter: all others wait for that one then.
-- A lease is its holder's value, a line end, and the time of acquisition (epoch seconds by this server's clock).
-- Returns: {'sources', repository ...} | {'acquired'} | {'busy', the lease} | {'free'}
local sources, lease, waiters = KEYS[1], KEYS[2], KEYS[3]
local take, value, life, patience = ARGV[1] == '1', ARGV[2], ARGV[3], tonumber(ARGV[4])

local excluded, found = {}, {'sources'}
for i = 7, #ARGV do
  excluded[ARGV[i]] = true
end
for _, repository in ipairs(redis.call('SRANDMEMBER', sources, ARGV[5])) do
  if not excluded[repository] and string.sub(repository, 1, 1) ~= '=' then  -- that is the layer's size
    found[#found + 1] = repository
  end
end
if #found > 1 then
  redis.call('ZREM', waiters, value)
  return found
end

-- at most the length of a lease of ours: a stranger's value may be huge
local there = redis.call('EXISTS', lease) == 1
local holder = there and redis.call('GETRANGE', lease, 0, 4095)
local time = redis.call('TIME')
if there and take and ARGV[6] ~= '' then
  local line = string.match(holder, '^[^\n]*')
  if line == ARGV[6] or line == '' and ARGV[6] == '\n' then
    there, holder = false, nil
  end
end
if there and string.sub(holder, 1, #value) ~= value then
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZCARD', waiters) < 1000 then
    redis.call('ZADD', waiters, now, value)
  end
  redis.call('ZREMRANGEBYSCORE', waiters, '-inf', now - patience)
  redis.call('PEXPIRE', waiters, patience)
  return {'busy', holder}
end
if not take then
  return {'free'}
end
redis.call('SET', lease, there and holder or value .. '\n' .. time[1], 'PX', life)
redis.call('ZREM', waiters, value)
return {'acquired'}
